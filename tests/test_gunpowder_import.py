"""gunpowder beside zarr 3: it imports, and nothing of the trick stays behind."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys
{before}
from cleftcli.gunpowder_import import gp
import zarr
print(json.dumps({{
    "works": hasattr(gp, "SimpleAugment") and hasattr(gp, "BatchProvider"),
    "same": sys.modules["gunpowder"] is gp,
    "zarr": int(zarr.__version__.split(".")[0]),
    "classes": [n for n in ("N5FSStore", "N5Store") if hasattr(zarr, n)],
    "modules": [n for n in sys.modules if n == "zarr._storage" or n.startswith("zarr._storage.")],
}}))
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("before", ["", "import zarr"])
def test_gunpowder_imports_and_leaves_no_trace(before):
    """The import works, and zarr has neither placeholder classes nor modules afterwards."""
    done = run(PROBE.format(before=before))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["works"]
    assert found["same"]
    assert found["zarr"] >= 3
    assert found["classes"] == []
    assert found["modules"] == []


@pytest.mark.parametrize("lost", ["gunpowder", "zarr"])
def test_without_the_extra_the_message_says_what_to_install(lost):
    """Where gunpowder or zarr is missing, the error says which extra brings it, and cleans up."""
    done = run(f"""
import sys
sys.modules[{lost!r}] = None
from cleftcli.errors import UsageError
try:
    import cleftcli.gunpowder_import
except UsageError as error:
    assert "pip install 'cleft[train]'" in str(error), error
else:
    raise SystemExit("imported all the same")
assert "zarr._storage" not in sys.modules
if {lost!r} != "zarr":
    import zarr
    assert not hasattr(zarr, "N5FSStore")
""")
    assert done.returncode == 0, done.stderr + done.stdout
