"""Documentation that is wrong is a failing test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cleftcli.augment import AUGMENTATIONS
from cleftcli.labels import TARGETS
from cleftcli.metrics import METRICS
from cleftcli.model import available, networks
from cleftcli.model.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_command_reference_is_current():
    """docs/commands.md is what the commands say of themselves."""
    subprocess.run([sys.executable, ROOT / "docs" / "generate_commands.py", "--check"], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page is a file."""
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]

    assert missing == []


def test_the_network_of_the_docs_works(tmp_path, monkeypatch):
    """The code that docs/extending.md writes in front of the reader is a network."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
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
    pages = [p.read_text(encoding="utf-8") for p in PAGES]
    pages += [p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "configs").glob("*.toml")]

    assert any(name in page or name.replace("_", "-") in page for page in pages)


def test_the_commands_of_the_tutorial_exist():
    """Every `cleft ...` line of README and tutorial names a command and options it has."""
    reference = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "docs" / "tutorial.md"):
        blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in re.findall(r"^cleft ([a-z-]+)(.*)$", "".join(blocks), re.MULTILINE):
            section = re.search(rf"## cleft {line[0]}\n.*?(?=\n## |\Z)", reference, re.DOTALL)
            assert section, line
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line[1].split("#")[0]):
                assert option in section[0], (line, option)
