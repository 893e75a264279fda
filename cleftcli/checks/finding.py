"""What a check says of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """A fact as it was measured, and what to do about it.

    `note`: something is slower, lost or risky; `problem`: runs will fail. `numbers` are the fact
    for scripts; their names say the unit.
    """

    state: State
    fact: str
    advice: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def ok(fact: str, **numbers: float) -> Finding:
    """All is well."""
    return Finding("ok", fact, "", numbers)


def note(fact: str, advice: str, **numbers: float) -> Finding:
    """Good to know before a long run."""
    return Finding("note", fact, advice, numbers)


def problem(fact: str, advice: str, **numbers: float) -> Finding:
    """This has to be mended first."""
    return Finding("problem", fact, advice, numbers)
