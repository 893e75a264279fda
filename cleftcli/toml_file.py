"""TOML as people's editors save it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cleftcli.errors import InputError, UsageError


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file; a byte order mark at its beginning is skipped.

    Raises:
        InputError: it cannot be read.
        UsageError: it is not TOML, or not UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8, which TOML requires; save it as UTF-8 ({error.reason})"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
