"""Results as a Markdown page, docs/benchmarks.md, and as lines in the terminal."""

import re
from typing import Any

from tests.benchmarks.row import Target

SCALING, WHERE = "Scaling", "Where the time goes"
HEAD = """# Benchmarks

What cleft costs, measured side by side on one machine: `make bench` writes this page.

- Machine: {machine}
- Versions: {versions}
- Measured: {dates}{quick}

A ratio (x) is how many times as long the other way takes: above 1, cleft is faster.
Both ways take turns; the median of their repeats is shown, least and greatest behind it.
Every row runs in a process of its own.
"""
QUICK = ", quickly: smaller volumes and one repeat"
SCALED = """
Each size runs in a process of its own. Time for each unit (of volume, clefts, blocks) is held
against the first size's; memory is the most that the process held beside its libraries.
What is read from it is the last step, in which starting weighs least.
"""
PROFILED = """
Self CPU time by operator of torch, as a share of all; what Python and numpy do is outside torch.
"""


def page(found: dict[str, Any]) -> str:
    """The whole page of what a run found: `conditions`, and `rows` in the order of the page."""
    under, rows = found["conditions"], list(found["rows"].values())
    groups = dict.fromkeys(row["group"] for row in rows)
    tables = {SCALING: _scaling, WHERE: _where}
    parts = [_head(under, rows)]
    for group in groups:
        table = tables.get(group, _ratios)
        parts.append(f"\n## {group}\n{table([r for r in rows if r['group'] == group])}")
    return "".join(parts)


def said(row: dict[str, Any]) -> str:
    """A row in one line."""
    reading = row.get("found", {}).get("says")
    return "  ".join(filter(None, [_value(row), reading, verdict(row)]))


def verdict(row: dict[str, Any]) -> str:
    """Whether a row reached its target, by how much it missed it and why, or why nobody knows."""
    for state in ("failed", "skipped"):
        if state in row:
            return f"{state}: {without_folders(row[state])}"
    if row["target"] is None:
        return row["why"]
    short = Target(**row["target"]).missed_by(row["found"]["value"])
    if not short:
        return "met"
    return f"missed by {short:.0%}" + (f": {row['why']}" if row["why"] else "")


def without_folders(text: str) -> str:
    """A message without the folders of this machine: of a path its last name stays."""
    return re.sub(r"(?<![\w.])~?/(?:[^\s/'\":]+/)+", "", text)


def number(value: float) -> str:
    """Three digits that count, in full where there are more before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _head(under: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    dates = sorted({row["date"] for row in rows})
    return HEAD.format(
        machine=under["machine"],
        versions=", ".join(f"{name} {v}" for name, v in under["versions"].items()),
        dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        quick=QUICK if under["quick"] else "",
    )


def _table(columns: tuple[str, ...], lines: list[list[str]]) -> str:
    head = [list(columns), ["---"] * len(columns)]
    clean = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in head + clean)


def _ratios(rows: list[dict[str, Any]]) -> str:
    columns = ("what", "held against", "found", "seconds, cleft and other", "to reach", "")
    return _table(columns, [_ratio(row) for row in rows])


def _ratio(row: dict[str, Any]) -> list[str]:
    found = row.get("found", {})
    took = [number(found[key]) for key in ("ours_s", "theirs_s") if key in found]
    return [row["name"], row["against"], _value(row), ", ".join(took), _goal(row), verdict(row)]


def _value(row: dict[str, Any]) -> str:
    """A row's number with its unit, and between which it lay."""
    if "found" not in row:
        return ""
    found, unit = row["found"], row["unit"]
    text = number(found["value"]) + (unit if unit in ("", "x") else f" {unit}")
    if found.get("repeats", 1) == 1:
        return text
    return f"{text} ({number(found['least'])} to {number(found['greatest'])})"


def _goal(row: dict[str, Any]) -> str:
    target = row["target"]
    if target is None:
        return ""
    unit = row["unit"] if row["unit"] in ("", "x") else f" {row['unit']}"
    return f"at {'most' if target['at_most'] else 'least'} {number(target['number'])}{unit}"


def _scaling(rows: list[dict[str, Any]]) -> str:
    columns = ("what", "sizes", "seconds", "time for each unit", "memory, MB", "reading")
    return SCALED + _table(columns, [_scaled(row) for row in rows])


def _scaled(row: dict[str, Any]) -> list[str]:
    if "found" not in row:
        return [row["name"], "", "", "", "", verdict(row)]
    found = row["found"]
    keys = ("seconds", "per_unit", "mb")
    columns = [", ".join(number(size[key]) for size in found["sizes"]) for key in keys]
    names = ", ".join(size["name"] for size in found["sizes"])
    judged = "; ".join(filter(None, [found["says"], verdict(row)]))
    return [row["name"], names, *columns, judged]


def _where(rows: list[dict[str, Any]]) -> str:
    lines = [line for row in rows for line in _costs(row)]
    done = "".join(f"\nOf {row['name']}: {row['why']}.\n" for row in rows if row["why"])
    return PROFILED + _table(("what", "costs", "share"), lines) + done


def _costs(row: dict[str, Any]) -> list[list[str]]:
    """The largest first, with the name of the whole beside it."""
    if "found" not in row:
        return [[row["name"], verdict(row), ""]]
    whole = f"{row['name']}, {_value(row)}"
    parts = [[f"`{part['operator']}`", f"{part['share']:.0%}"] for part in row["found"]["costs"]]
    return [[whole if n == 0 else "", *part] for n, part in enumerate(parts)]
