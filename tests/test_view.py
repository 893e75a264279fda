"""`cleft view`: one page that says what it lacks, replaces only its own, and runs nothing."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleftcli.blockwise import Ledger
from cleftcli.geometry import whole
from cleftcli.labels import BACKGROUND
from cleftcli.stored import ledger_of
from cleftcli.volumes import Space, create_volume, write_attributes
from tests.conftest import store
from tests.test_viewing import SHAPE, predicted, small_windows, smooth, truth_of  # noqa: F401

SECTIONS = ("places", "accuracy", "clefts", "coverage", "intensities", "seams", "provenance")
HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.said = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, [name for name, _ in attrs]))
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


@pytest.fixture
def view(cleft):
    """Run `view --json`: what it printed, and its page."""

    def run(*arguments):
        done = cleft("view", *arguments, "--json")
        assert done.exit_code == 0, done.stderr + str(done.exception)
        found = json.loads(done.stdout)
        return found, Page(Path(found["report"]).read_text(encoding="utf-8"))

    return run


@pytest.fixture
def pair(tmp_path):
    """Addresses of a prediction with a ledger, and of its truth."""
    levels = smooth(1)
    truth = store(f"{tmp_path}/truth.zarr/clefts", truth_of(levels, 1))
    return predicted(tmp_path, levels), truth.address


def test_the_report_lies_beside_the_output(cleft, pair, tmp_path):
    """stdout is its path, whatever else is said goes to stderr."""
    done = cleft("view", pair[0], "--truth", pair[1])
    assert done.stdout == f"{tmp_path}/prediction.zarr.cleft.report.html\n"
    assert not list(tmp_path.glob(".*.partial"))


def test_everything_is_in_the_page(view, pair):
    """Each image is inside the page and can be decoded; no script, no address to fetch."""
    found, page = view(pair[0], "--truth", pair[1])
    assert len(page.images) == len(found["places"]["places"]) + 1 + 5  # montage, charts, no raw
    for image in page.images:
        assert image["alt"]
        kind, data = image["src"].split(",", 1)
        raw = base64.b64decode(data)
        if kind == "data:image/jpeg;base64":
            assert Image.open(io.BytesIO(raw)).size[0] > 30
        else:
            assert kind == "data:image/svg+xml;base64"
            assert b"<svg" in raw
    assert "script" not in [tag for tag, _ in page.tags]
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}


def test_the_numbers_are_those_of_the_page(view, pair):
    """--json has every section, and the page shows its scores."""
    found, page = view(pair[0], "--truth", pair[1], "--threshold", 0.5)
    assert found["schema_version"] == 1
    assert set(SECTIONS) | {"summary", "report", "schema_version"} == set(found)
    assert f"{found['accuracy']['scores']['cremi_score']:.4g}" in page.text
    assert f"{found['clefts']['counts']['missed']} missed" in page.text
    assert found["summary"]["threshold"] == 0.5


def test_names_are_text_wherever_they_stand(view, tmp_path):
    """Markup in a name, an attribute, a block's error or a record is shown, never followed."""
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    levels = smooth(2)
    states = [0] * 17 + [4]
    address = predicted(
        folder, levels, states=states, volume=HOSTILE, shape=[HOSTILE], mask=HOSTILE
    )
    record = {"command": ["cleft", HOSTILE], "host": HOSTILE, "folder": HOSTILE}
    record["plan"] = {"network": HOSTILE, "warnings": [HOSTILE], HOSTILE: [HOSTILE]}
    (folder / "prediction.zarr.cleft.run.json").write_text(json.dumps(record))
    _, page = view(address)
    assert "script" not in [tag for tag, _ in page.tags]
    assert not [name for _, names in page.tags for name in names if name.startswith("on")]
    assert all(image["src"].startswith("data:") for image in page.images)
    assert f"When it was made: {HOSTILE}." in page.text
    assert "ValueError: <b>no</b>" in page.text
    assert "<img src=x onerror=alert(1)>/prediction.zarr/cleft" in page.text


def test_records_that_are_no_records_change_nothing(view, pair, tmp_path):
    """A run.json of nonsense is as good as none."""
    path = tmp_path / "prediction.zarr.cleft.run.json"
    for text in ("{", "[1]", '{"plan": "x", "settings": 3, "command": 1}', '{"plan": null}'):
        path.write_text(text)
        found, _ = view(pair[0])
        assert found["accuracy"]["lacks"]


def test_a_growing_output_is_shown_and_said_to_grow(view, tmp_path):
    """Before the first block, half way, and with a failed one; a run that writes is told of."""
    levels = smooth(3)
    for name, states in (("none", [3] * 18), ("half", [0] * 9 + [3] * 8 + [4])):
        address = predicted(tmp_path, levels, name=name, states=states)
        found, page = view(address)
        assert not found["summary"]["complete"]
        assert "The output is not finished" in page.text
        assert bool(found["places"]["places"]) == (name == "half")
        run = {"roi": str(whole(SHAPE)), "block": [4, 16, 16]}
        with Ledger(ledger_of(address), run):
            assert view(address)[0]["coverage"]["running"]


def test_without_a_truth_the_page_says_so(view, pair, small_windows):  # noqa: F811
    """No scores, no clefts to judge, and how to get them."""
    found, page = view(pair[0])
    assert "--truth" in found["accuracy"]["lacks"]
    assert "Not here: no truth was given" in page.text
    assert {p["kind"] for p in found["places"]["places"]} == {
        "most certain", "least certain", "random",
    }  # fmt: skip


def test_without_raw_the_page_says_so(view, pair):
    """A prediction whose volume is not known is shown on even grey."""
    found, page = view(*pair[:1])
    assert found["summary"]["raw"] is None
    assert "Raw is not shown" in page.text
    assert "--raw" in found["intensities"]["lacks"]


def test_raw_that_is_named_is_shown(view, pair, tmp_path):
    """--raw over the same voxels; one that lies elsewhere is an error."""
    raw = store(f"{tmp_path}/raw.zarr/raw", smooth(9))
    assert view(pair[0], "--raw", raw.address)[0]["summary"]["raw"] == raw.address


def test_what_was_named_and_does_not_fit_is_an_error(cleft, pair, tmp_path):
    """A truth or raw of other voxels ends with 3 and a line, and without a report."""
    other = store(f"{tmp_path}/other.zarr/clefts", np.ones((2, 3, 4), np.uint64))
    for option in ("--truth", "--raw"):
        done = cleft("view", pair[0], option, other.address)
        assert done.exit_code == 3
        assert "other.zarr" in done.stderr
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("side", ["prediction", "truth", "both"])
def test_empty_sides_have_a_page(view, tmp_path, side):
    """Scores that are not defined say why."""
    levels = smooth(4)
    ids = np.full(SHAPE, BACKGROUND) if side != "prediction" else truth_of(levels, 4)
    levels = levels * 0 if side != "truth" else levels
    truth = store(f"{tmp_path}/truth.zarr/clefts", ids.astype(np.uint64))
    found, page = view(predicted(tmp_path, levels), "--truth", truth.address)
    assert found["accuracy"]["scores"]["cremi_score"] is None
    assert "cremi_score: no cleft voxel in the" in page.text
    assert "No distances" in page.text


def test_ids_are_shown_with_the_blocks_of_their_prediction(
    cleft, view, pair, tmp_path, monkeypatch
):
    """Clefts of `segment` find the probability they were made of, also by a relative address."""
    monkeypatch.chdir(tmp_path)
    assert cleft("segment", "prediction.zarr", "-o", "clefts.zarr").exit_code == 0
    monkeypatch.chdir("/")
    found, _ = view(tmp_path / "clefts.zarr", "--truth", pair[1])
    assert found["summary"]["content"] == "ids"
    assert found["coverage"]["blocks"] == 18
    assert found["seams"]["axes"]["x"]["faces"] == 12
    assert [row["threshold"] for row in found["accuracy"]["sweep"]] == [None]
    assert found["provenance"]["settings"]["prediction"] == "prediction.zarr/cleft"


def test_foreign_files_stay(cleft, pair, tmp_path):
    """A file that is no report is not replaced, nor is a folder; a report is."""
    precious = tmp_path / "thesis.html"
    precious.write_text("<html>precious</html>")
    for place in (precious, tmp_path):
        assert cleft("view", pair[0], "-o", place).exit_code == 5
    assert cleft("view", pair[0], "-o", precious / "report.html").exit_code == 6
    assert precious.read_text() == "<html>precious</html>"
    for _ in range(2):
        assert cleft("view", pair[0], "-o", tmp_path / "new" / "report.html").exit_code == 0


def test_pictures_alone(cleft, pair, tmp_path):
    """--png writes a file for each place and one over z, and no page; its own are replaced."""
    for _ in range(2):
        done = cleft("view", pair[0], "--truth", pair[1], "--png", "-o", tmp_path / "out", "--json")
        found = json.loads(done.stdout)
    assert len(found["files"]) == len(found["places"]["places"]) + 1
    for path in found["files"]:
        with Image.open(path) as image:
            assert image.format == "PNG"
    assert not list(tmp_path.glob("*.html"))
    Path(found["files"][0]).write_bytes(b"precious")
    done = cleft("view", pair[0], "--truth", pair[1], "--png", "-o", tmp_path / "out")
    assert done.exit_code == 5
    assert Path(found["files"][0]).read_bytes() == b"precious"


def test_a_damaged_chunk_takes_its_sections_only(view, pair, tmp_path):
    """What cannot be read is said in the warnings; the other sections are there."""
    chunks = (p for p in (tmp_path / "prediction.zarr" / "cleft").rglob("*") if p.is_file())
    next(p for p in sorted(chunks) if not p.name.startswith(".")).write_bytes(b"broken")
    found, page = view(pair[0], "--truth", pair[1])
    assert "cannot read voxels" in found["places"]["lacks"]
    assert found["coverage"]["counts"]["done"] == 18
    assert "No places:" in page.text


def test_without_voxel_size_there_is_no_nm(cleft, view, tmp_path):
    """The page is made; with a truth the size is asked for."""
    made = create_volume(
        f"{tmp_path}/p.zarr/cleft", shape=SHAPE, dtype=np.uint8, chunks=(4, 16, 16), space=Space(),
        attributes={"content": "probability"},
    )  # fmt: skip
    made.write(made.roi, smooth(5))
    write_attributes(made, {"complete": True})
    _, page = view(made.address)
    assert "voxel size not known" in page.text
    done = cleft("view", made.address, "--truth", made.address)
    assert done.exit_code == 3
    assert "--voxel-size" in done.stderr


def test_what_is_no_prediction_is_refused(cleft, tmp_path):
    """Another map of cleft's has no clefts to show."""
    made = store(f"{tmp_path}/b.zarr/boundary", smooth(6), content="boundary", complete=True)
    assert cleft("view", made.address).exit_code == 3
    assert cleft("view", tmp_path / "nothing.zarr").exit_code == 3
    assert cleft("view", made.address, "--threshold", 2).exit_code in (2, 3)
