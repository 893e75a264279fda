"""Documentation that is wrong is a failing test."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from cleftcli.augment import AUGMENTATIONS
from cleftcli.labels import TARGETS
from cleftcli.metrics import METRICS
from cleftcli.model import available, networks
from cleftcli.model.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
REFERENCE = (DOCS / "commands.md").read_text(encoding="utf-8")


def anchors(page):
    """The anchors that headings of a page get, here and on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def section_of(*words):
    """What the reference has of a command, "" where there is none."""
    title = re.escape(" ".join(["cleft", *words]))
    found = re.search(rf"## {title}\n.*?(?=\n## |\Z)", REFERENCE, re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("script", ["generate_commands.py", "generate_layers.py"])
def test_what_is_generated_is_current(script):
    """docs/commands.md is what the commands say of themselves, docs/layers.svg what is enforced."""
    subprocess.run([sys.executable, DOCS / script, "--check"], check=True)


def test_the_picture_stacks_the_layers():
    """Every room of pyproject's layers is in it once, and above all rooms of lower layers."""
    texts = ElementTree.parse(DOCS / "layers.svg").iter("{http://www.w3.org/2000/svg}text")
    heights = {text.text: float(text.get("y")) for text in texts}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    rooms = [layer.replace("cleftcli.", "").split(" | ") for layer in layers]

    assert sorted(heights) == sorted(itertools.chain(*rooms))
    for upper, lower in itertools.pairwise(rooms):
        assert max(heights[r] for r in upper) < min(heights[r] for r in lower)


@EVERY
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page is a file, every anchor a heading of its."""
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    inside = [(page.parent / path if path else page, a) for path, a in links if "://" not in path]

    assert [path for path, _ in inside if not path.exists()] == []
    assert [(path, a) for path, a in inside if a and a not in anchors(path)] == []


def test_the_site_builds(tmp_path):
    """Strictly, and what is built asks no other machine for anything."""
    for needed in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(needed)
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", DOCS, tmp_path / "site"]
    subprocess.run([*build, "-d", tmp_path / "trees"], check=True)

    files = [p for p in (tmp_path / "site").rglob("*") if p.suffix in (".html", ".css", ".js")]
    asks = re.compile(
        r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//"""
        r"""|<link(?![^>]+rel=["']?canonical)[^>]+href=["']?(?:https?:)?//"""
        r"""|url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
        r"""|(?:fetch|importScripts)\(["'](?:https?:)?//"""
    )
    assert (tmp_path / "site" / "index.html") in files
    assert [p.name for p in files if asks.search(p.read_text(encoding="utf-8"))] == []


def test_the_network_of_the_docs_works(tmp_path, monkeypatch):
    """The code that docs/extending.md writes in front of the reader is a network."""
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "two_layers.py").write_text(code)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    from cleftcli.model import build

    assert "two_layers" in available()
    network = build("two_layers", out_channels=2, input_shape=(2, 8, 8), options={"channels": 3})
    assert network(torch.zeros(1, 1, 2, 8, 8)).shape == (1, 2, 2, 8, 8)


@pytest.mark.parametrize(
    "name", [*available(), *OBJECTIVES, *AUGMENTATIONS, *METRICS, *TARGETS, "hysteresis"]
)
def test_every_name_is_in_the_docs(name):
    """A row of a table that no page names is undocumented."""
    pages = [p.read_text(encoding="utf-8") for p in (*PAGES, *DOCS.glob("configs/*.toml"))]

    assert any(name in page or name.replace("_", "-") in page for page in pages)


@EVERY
def test_the_commands_of_a_page_exist(page):
    """Every `cleft ...` line and every such command in the text has a name and options it has."""
    text = page.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = re.findall(r"^ *(?:srun )?cleft ([a-z-]+.*)$", blocks, re.MULTILINE)
    prose = re.findall(r"`cleft ([a-z][^`]*)`", text)
    own = section_of()  # its options may stand behind a command
    for line in lines + prose:
        words = line.split("#")[0].split()
        section = section_of(*words[:2]) or section_of(words[0])
        assert section, line
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", " ".join(words)):
            assert re.search(rf"(?<!\S){option}\b", section + own), (line, option)
