"""Options as a config states them, checked by the signature that takes them."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from cleftcli.errors import UsageError


def checked(what: str, takes: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, arrays as the tuples that are asked for.

    Args:
        what: they belong to, in words.
        takes: a class whose constructor has them as keyword arguments with defaults.
        options: by name; numbers are 1 or more where they are whole, not negative where they are
            not.

    Raises:
        UsageError: one is of another kind, or a number out of range.
    """
    of = takes.__init__ if inspect.isclass(takes) else takes
    hints = typing.get_type_hints(of, include_extras=True)
    wanted: dict[str, Any] = {name: (hints[name], ...) for name in options}
    model = create_model("Options", __config__=ConfigDict(strict=True), **wanted)
    try:
        found = model.model_validate_json(json.dumps(dict(options)))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UsageError(f"{what}, option {name}: {first['msg'].lower()}") from None
    values = {name: getattr(found, name) for name in options}
    for name, value in values.items():
        if any(map(_senseless, value if isinstance(value, Sequence) else [value])):
            raise UsageError(f"{what}, option {name}: {value} is out of range")
    return values


def _senseless(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not (value >= (1 if isinstance(value, int) else 0) and value < float("inf"))
