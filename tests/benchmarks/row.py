"""What a row is: one claim, how it is measured, and what it has to reach."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleftcli.geometry import Zyx, zyx

CHUNK = 128  # rows and columns of a smaller volume are whole chunks


@dataclass(frozen=True)
class Target:
    """What a row's value has to reach: this number at least, or at most."""

    number: float
    at_most: bool = False

    def missed_by(self, value: float) -> float:
        """The share of the number that is lacking, or too much; 0 where it is reached."""
        short = value - self.number if self.at_most else self.number - value
        return max(0.0, short / self.number)


def at_least(number: float) -> Target:
    """More is better."""
    return Target(number)


def at_most(number: float) -> Target:
    """Less is better."""
    return Target(number, at_most=True)


@dataclass(frozen=True)
class Setting:
    """Where a row may write, and how much it does: all of it, or less to be quick.

    `repeats` are those of a pair; `edge` is a share of rows, columns and counts; `times` is how
    many times as large as the first the largest volume of a scaling row is.
    """

    folder: Path
    repeats: int = 3
    edge: float = 1.0
    times: int = 64

    def shape(self, full: Zyx) -> Zyx:
        """Of a volume: all sections, and a share of rows and columns."""
        if self.edge == 1:
            return full
        rows, columns = (max(1, round(n * self.edge / CHUNK)) * CHUNK for n in full[1:])
        return zyx((full[0], rows, columns))

    def count(self, full: int) -> int:
        """Of blocks, steps or chunks."""
        return max(1, round(full * self.edge))


@dataclass(frozen=True)
class Row:
    """One line of a table: `name` held `against` something.

    `measure` returns `value`, the number that `target` is about, perhaps `least` and `greatest`
    of its repeats, and further facts. It runs in a process of its own, `limit` seconds at most,
    with the packages it `needs` and that are no dependency of cleft. `why` says for what known
    reason the target is missed. Where everything is quick, those that are not `quick` are left out.
    """

    name: str
    against: str
    measure: Callable[[Setting], dict[str, Any]]
    target: Target | None
    unit: str = "x"
    why: str = ""
    limit: float = 300.0
    needs: tuple[str, ...] = ()
    quick: bool = True

    @property
    def title(self) -> str:
        """How it is called in the table, and chosen on the command line."""
        return f"{self.name} / {self.against}" if self.against else self.name
