"""docs/troubleshooting.md quotes every error of the source, as the source has it."""

import ast
import re
from pathlib import Path

import pytest

from cleftcli import errors

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [found[2] for found in re.finditer(r"^- (`+) ?(.+?) ?\1\\$", TEXT, re.MULTILINE)]
NODES = [
    node
    for file in sorted((ROOT / "cleftcli").rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
]
LEAST = 10  # letters that a message has of its own; with fewer it looks like any other


def pattern(node):
    """What a string of the source looks like with its values filled in; "" of what says little."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else part for part in node.values]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        pieces = re.split(r"(%(?:\.\d+)?[sdf]|\{\})", node.value)
        parts = [None if n % 2 else piece.replace("%%", "%") for n, piece in enumerate(pieces)]
    else:
        return ""
    if sum(len(part) for part in parts if isinstance(part, str)) < LEAST:
        return ""
    filled = "".join(re.escape(p) if isinstance(p, str) else value(p) for p in parts)
    return f"(?:.+: )?{filled}"  # behind what it is about


def value(part):
    """What a value in a string looks like; a `repr` is in quotes or brackets."""
    return r"['\"\[({].*" if getattr(part, "conversion", -1) == ord("r") else ".+"


PATTERNS = [re.compile(found) for found in {pattern(node) for node in NODES} - {""}]
ERRORS = sorted(
    {
        found
        for node in NODES
        if isinstance(node, ast.Call) and hasattr(errors, getattr(node.func, "id", ""))
        for found in map(pattern, node.args)
        if found
    }
)


@pytest.mark.parametrize("line", QUOTED)
def test_a_quoted_line_is_in_the_source(line):
    """Some string of the source, its values filled in, is the line that the page quotes."""
    assert any(found.fullmatch(line) for found in PATTERNS)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_an_entry(error):
    """What a person may be told is quoted, with its cause and what to type."""
    assert any(re.fullmatch(error, line) for line in QUOTED)


def test_every_entry_says_what_to_do():
    """No entry is passed over: each begins with a line in code, and has words below it."""
    entries = re.findall(r"^- (.*)\n(.*)", TEXT, re.MULTILINE)

    assert len(entries) == len(QUOTED) == len(set(QUOTED))
    assert all(below.startswith("  ") and below.strip() for _, below in entries)
