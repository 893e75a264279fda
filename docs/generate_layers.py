"""Draw docs/layers.svg; `--check` only compares.

The rooms of the package, as pyproject.toml stacks them, and the heavy libraries each imports.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).with_name("layers.svg")
HEAVY = {
    "dask": "dask",
    "distributed": "dask",
    "gunpowder": "gunpowder",
    "h5py": "h5py",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "tensorstore": "tensorstore",
    "tifffile": "tifffile",
    "torch": "torch",
    "typer": "typer",
}

WIDTH, LEFT, PADDING, GAP = 900, 34, 10, 8  # px
LETTER, LINE = 8, 34  # px: of a name's letter, of a row of rooms
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" \
role="img" font-family="ui-sans-serif, system-ui, sans-serif" font-size="13">
<title>The layers of the package, from the command line down to the errors</title>
<rect width="{w}" height="{h}" fill="#ffffff"/>
<path d="M 16 12 V {tip} m -5 -8 l 5 8 l 5 -8" fill="none" stroke="#6b7280" stroke-width="1.5"/>
"""


def layers() -> list[list[str]]:
    """Rooms from the top layer to the bottom one."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    stacked = next(c["layers"] for c in contracts if c["type"] == "layers")
    return [[room.split(".")[-1] for room in layer.split(" | ")] for layer in stacked]


def libraries(room: str) -> list[str]:
    """The heavy libraries that a room imports, anywhere in it."""
    path = ROOT / "cleftcli" / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    found = {name.split(".")[0] for file in files for name in _imported(file)}
    return sorted({HEAVY[name] for name in found & HEAVY.keys()})


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def picture() -> str:
    """The whole file."""
    y, drawn = GAP, []
    for layer in layers():
        rows = list(_rows(layer))
        height = len(rows) * LINE + GAP
        band = f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - GAP}" height="{height}" rx="6"'
        drawn.append(f'{band} fill="#eef2f7"/>\n')
        for n, row in enumerate(rows):
            drawn += [_box(x, y + GAP + n * LINE, width, room) for x, width, room in row]
        y += height + GAP
    return HEAD.format(w=WIDTH, h=y, tip=y - 12) + "".join(drawn) + "</svg>\n"


def _rows(layer: list[str]) -> Iterator[list[tuple[int, int, str]]]:
    """Left edge, width and name of the rooms of a layer, line by line."""
    row, x = [], LEFT + GAP
    for room in layer:
        width = LETTER * len(" ".join([room, *libraries(room)])) + 2 * PADDING
        if row and x + width > WIDTH - 2 * GAP:
            yield row
            row, x = [], LEFT + GAP
        row.append((x, width, room))
        x += width + GAP
    yield row


def _box(x: int, y: int, width: int, room: str) -> str:
    behind = f'<tspan fill="#b45309" font-size="11" dx="6">{" ".join(libraries(room))}</tspan>'
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{LINE - GAP}" rx="4" fill="#ffffff" '
        f'stroke="#cbd5e1"/>\n<text x="{x + PADDING}" y="{y + 18}" fill="#111827">'
        f"{room}{behind if libraries(room) else ''}</text>\n"
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == picture()
        sys.exit(None if current else f"{PICTURE} is not current; run: make docs")
    PICTURE.write_text(picture(), encoding="utf-8")
