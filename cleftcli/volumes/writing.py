"""Writing through tensorstore, which has words of its own for what the system refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from cleftcli import machine
from cleftcli.volumes.stores import FAILURES

_CODE = re.compile(r"(?:os_error_code='|OS error )(\d+)")  # the second in 0.1.80


@contextmanager
def writing(address: str) -> Iterator[None]:
    """As `machine.writing`, around calls of tensorstore; what the system did not say stays.

    Raises:
        ResourceError: the system refuses.
    """
    with machine.writing(address):
        try:
            yield
        except FAILURES as error:
            code = _CODE.search(str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
