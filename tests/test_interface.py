"""cleft from Python: the commands' own results, for notebooks, threads and type checkers."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cleftcli
from cleftcli import (
    CleftError,
    Roi,
    Workers,
    evaluate,
    interface,
    open_volume,
    predict,
    segment,
)
from cleftcli.cli import evaluate as evaluate_command
from cleftcli.cli import predict as predict_command
from cleftcli.cli import segment as segment_command
from cleftcli.cli.report import SCHEMA_VERSION
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume
from tests.conftest import store

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
CELLS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OF_WORKERS = {"scheduler", "cluster", "part", "patience"}
VNC = (50.0, 4.6, 4.6)  # nm, of the data behind the checkpoint that ships
SCRIPT = """
from pathlib import Path
from typing import Any, assert_type
from cleftcli import Volume, Workers

assert_type(predict(Path("a"), roi=":,:,:", workers=Workers(part=(1, 2))), dict[str, Any])
assert_type(open_volume("a", voxel_size=(40.0, 4.0, 4.0)), Volume)
assert_type(raw[0:1, :, :], np.ndarray)
predict(1)  # type: ignore[arg-type]
segment("a")  # type: ignore[call-arg]
evaluate("a", "b", "c")  # type: ignore[arg-type]
"""


def in_another_thread(work):
    """As a server, or a dashboard."""
    raised = []

    def caught():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join()
    assert not raised, raised


def in_an_event_loop(work):
    """As Jupyter, whose cells run inside its loop."""

    async def cell():
        work()

    asyncio.run(cell())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(code, *arguments):
    """Run a script of a user's, far from pytest's handlers and hooks."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("somewhere", [in_another_thread, in_an_event_loop])
def test_the_page_runs(here, capsys, somewhere):
    """Every cell of docs/python.md, in order, wherever it is called from."""
    grown = tissue((10, 96, 96), VNC, seed=3)
    for name, data in (("raw", grown.raw), ("labels/clefts", grown.clefts)):
        made = create_volume(
            f"volume.zarr/volumes/{name}",
            shape=data.shape,
            dtype=data.dtype,
            chunks=(16, 64, 64),
            space=Space(VNC),
        )
        made.write(made.roi, data)
    names = {}
    for cell in CELLS:
        somewhere(lambda cell=cell: exec(cell, names))

    assert np.array_equal(names["section"], grown.raw[4])
    orange = np.asarray(Image.open("section.png"))[..., 0] != names["section"]
    assert 0 < orange.sum() <= names["inside"].sum()
    assert names["clefts"]["clefts"] == len(Path("clefts.csv").read_text().splitlines()) - 1 > 0
    assert names["scores"]["auc"] > 0.9
    assert capsys.readouterr().out.splitlines()[-1].startswith("ConflictError ")


@pytest.mark.parametrize(
    ("function", "command"),
    [
        (predict, predict_command.main),
        (segment, segment_command.main),
        (evaluate, evaluate_command.main),
    ],
)
def test_an_option_is_an_argument_of_the_same_name(function, command):
    """Nothing that a command can do is missing, and nothing is called or preset otherwise."""
    ours, theirs = (inspect.signature(f).parameters for f in (function, command))
    more = {"report", "prediction", "truth", "more"} - theirs.keys()
    typed = {"volumes", "json"} if function is evaluate else {"json"}

    assert ours.keys() - more == theirs.keys() - typed - OF_WORKERS
    for name in ours.keys() & theirs.keys() - {"context", "channels", "min_voxels"}:
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize("function", [open_volume, predict, segment, evaluate])
def test_the_page_has_every_argument(function):
    """Its table names them in their order, each with its default."""
    section = re.search(rf"## `{function.__name__}`\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)[1]
    rows = re.findall(r"^\| `(.*?)` \| (?:`(.*?)`)? ?\|", section, re.MULTILINE)
    said = [(name, default.replace('"', "'")) for name, default in rows]

    parameters = inspect.signature(function).parameters.values()
    assert said == [
        (
            "*" * (p.kind is p.VAR_POSITIONAL) + p.name,
            "" if p.default is p.empty else repr(p.default),
        )
        for p in parameters
    ]


def test_results_are_what_json_prints(here, cleft, volume, checkpoint):
    """The same dicts, but for the version of what is printed."""

    def of_command(*line):
        done = cleft(*line, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def of_python(found):
        return {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(found))}

    box, chosen = Roi((0, 8, 0), (10, 32, 64)), ["--roi", ":,8:40,:", "--checkpoint", checkpoint]
    first = predict(volume, here / "a.zarr", roi=box, checkpoint=checkpoint)
    assert of_python(first)["output"] == f"{here}/a.zarr/cleft"
    again = predict(volume, here / "a.zarr", roi=box, checkpoint=checkpoint)
    assert of_python(again) == of_command("predict", volume, "-o", here / "a.zarr", *chosen)
    made = segment(here / "a.zarr", here / "ids.zarr", threshold=0.3, overwrite=True)
    line = ["segment", here / "a.zarr", "-o", here / "ids.zarr", "--threshold", 0.3]
    assert of_python(made) == of_command(*line, "--overwrite")
    scored = evaluate("a.zarr", volume, ("a.zarr", volume), sweep=True, min_voxels=[0, 9])
    line = ["a.zarr", volume, "a.zarr", volume, "--sweep", "--min-voxels", "0,9"]
    assert of_python(scored) == of_command("evaluate", *line)


def test_nothing_is_printed_unless_asked_for(here, volume, checkpoint):
    """Progress goes to `report`, words go to logging, the result is returned."""
    code = """
        import sys
        from cleftcli import predict
        options = {"checkpoint": sys.argv[2], "block": (5, 48, 64)}
        predict(sys.argv[1], "a.zarr", **options)
        predict(sys.argv[1], "b.zarr", report=lambda d, n, facts: print(d, n, *facts), **options)
    """
    done = script(code, volume, checkpoint)

    facts = "voxels_per_second failed"
    assert (done.stdout, done.stderr) == (f"0 2\n1 2 {facts}\n2 2 {facts}\n", "")


@pytest.mark.parametrize(
    "changed",
    [
        {"workers": 0},
        {"batch_size": 0},
        {"block": (0, 16, 16)},
        {"voxel_size": (40.0, 0.0, 8.0)},
        {"voxel_size": (40.0, 8.0)},
        {"roi": "everywhere"},
        {"roi": Roi((0, 0, 0), (11, 48, 64))},
        {"channels": "cleft"},
        {"tta": "rotations"},
        {"missing": "perhaps"},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_said(here, volume, checkpoint, changed):
    """Values that the command line would refuse are refused here too, before anything is made."""
    with pytest.raises(CleftError):
        predict(volume, "a.zarr", **{"checkpoint": checkpoint, **changed})
    assert not (here / "a.zarr").exists()


def test_ctrl_c_leaves_what_the_same_call_continues(here, volume, checkpoint):
    """KeyboardInterrupt, blocks in flight finished, handlers as before; then the rest."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    seen = []

    def report(done, _total, _facts):
        seen.append(done)
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    options = {"checkpoint": checkpoint, "block": (2, 16, 64)}
    with pytest.raises(KeyboardInterrupt):
        predict(volume, "a.zarr", report=report, **options)

    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert open_volume("a.zarr").attributes["complete"] is False
    again = predict(volume, "a.zarr", **options)
    assert 0 < again["blocks_resumed"] == max(seen) < again["blocks"] == 15


def test_a_thread_leaves_signals_alone(here, volume, checkpoint):
    """While another thread predicts, Ctrl-C is still the program's own."""
    ours = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        predict(
            volume,
            "a.zarr",
            checkpoint=checkpoint,
            report=lambda *_: seen.append(signal.getsignal(signal.SIGINT)),
        )

    in_another_thread(work)
    assert set(seen) == {ours}


def test_parts_and_workers_are_those_of_the_command(here, volume, checkpoint):
    """A number is that many processes; `Workers` says the rest."""
    part = predict(
        volume,
        "a.zarr",
        checkpoint=checkpoint,
        block=(5, 48, 64),
        workers=Workers(part=(1, 2)),
    )
    assert (part["complete"], part["blocks_done"]) == (False, 1)
    assert predict(volume, "b.zarr", checkpoint=checkpoint, workers=3, dry_run=True)["workers"] == 3


def test_a_container_of_ours_is_its_voxels(here, volume):
    """Raw, probability or ids, whichever is there; a voxel size that is stated counts."""
    data = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for dataset in ("clefts", "cleft"):
        store(f"both.zarr/{dataset}", data)
        store(f"{dataset}.zarr/{dataset}", data)
        assert open_volume(Path(f"{dataset}.zarr")).address == f"{dataset}.zarr/{dataset}"
    assert open_volume("both.zarr").address == "both.zarr/cleft"
    assert open_volume(volume, voxel_size=(1.0, 2.0, 3.0)).voxel_size == (1.0, 2.0, 3.0)
    assert open_volume("cleft.zarr", axes="xyz")[0:1, 0:1, 0:2].ravel().tolist() == [0, 4]


def test_names_are_imported_when_asked_for():
    """`import cleftcli` and its errors need nothing heavy; every name is listed and is there."""
    code = """
        import sys, cleftcli
        from cleftcli import CleftError
        print([m for m in ("torch", "dask", "tensorstore", "numpy") if m in sys.modules])
    """
    assert script(code).stdout == "[]\n"
    assert set(cleftcli.__all__) <= set(dir(cleftcli))
    assert set(interface.__all__) < set(cleftcli.__all__)
    assert all(hasattr(cleftcli, name) for name in cleftcli.__all__)
    assert not hasattr(cleftcli, "predicts")


def test_type_checkers_see_the_types(tmp_path):
    """mypy --strict passes what the page says, and refuses what the functions do not take."""
    path = tmp_path / "script.py"
    path.write_text("\n".join([*CELLS, SCRIPT]), encoding="utf-8")
    root = Path(cleftcli.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", root / "pyproject.toml", path],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
