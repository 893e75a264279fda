"""The montage: a PNG whose panels show what they say."""

import itertools

import numpy as np
import pytest
from PIL import Image

from cleftcli.pictures import (
    FALSE,
    GAP,
    HEADER,
    MISSED,
    PREDICTED,
    RIGHT,
    TRUE,
    compared,
    montage,
)

SHAPE = (5, 60, 160)


@pytest.fixture
def arrays():
    """Even grey raw; truth in one rectangle of section 2, a certain prediction in another."""
    raw = np.full(SHAPE, 100, np.uint8)
    truth, probability = np.zeros(SHAPE, bool), np.zeros(SHAPE, np.float32)
    truth[2, 30:40, 40:60] = True
    probability[2, 20:35, 50:70] = 0.9
    return raw, truth, probability


def drawn(path, arrays, **options):
    montage(path, *arrays, **{"sections": [0, 2], "nm_per_voxel": 8.0, **options})
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def panel(sheet, row, column):
    """The pixels of one panel."""
    _, height, width = SHAPE
    top, left = HEADER + row * (height + GAP), column * (width + GAP)
    return sheet[top : top + height, left : left + width]


@pytest.mark.parametrize("sections", [[0], [0, 2], [4, 1, 3]])
def test_size(tmp_path, arrays, sections):
    """Three columns of raw's width, a row for each section, gaps between and a header."""
    sheet = drawn(tmp_path / "a.png", arrays, sections=sections)
    n = len(sections)
    assert sheet.shape == (HEADER + n * 60 + (n - 1) * GAP, 3 * 160 + 2 * GAP, 3)


def test_truth_is_tinted_where_it_is(tmp_path, arrays):
    """The truth panel is green in the truth's voxels, and the raw's grey elsewhere."""
    found = panel(drawn(tmp_path / "a.png", arrays), row=1, column=1)
    truth = arrays[1][2]
    inside = found[truth]
    assert (inside == np.asarray(inside[0])).all()
    assert inside[0][1] > inside[0][0] + 30
    assert inside[0][1] > inside[0][2] + 30
    assert np.argmax(inside[0]) == np.argmax(TRUE)
    assert (found[:, 10:][~truth[:, 10:]] == 100).all()


def test_prediction_is_tinted_and_outlined(tmp_path, arrays):
    """The third panel is orange where the prediction is, with a full line at its edge."""
    found = panel(drawn(tmp_path / "a.png", arrays), row=1, column=2)
    likely = arrays[2][2] >= 0.5
    inner = likely & np.roll(likely, 1, 0) & np.roll(likely, -1, 0)
    inner &= np.roll(likely, 1, 1) & np.roll(likely, -1, 1)
    assert (found[likely & ~inner] == PREDICTED).all()
    assert (found[inner][:, 0] > found[inner][:, 2] + 30).all()
    assert not (found[inner] == PREDICTED).all()
    assert (found[~likely] == 100).all()


def test_raw_is_shown_as_it_is(tmp_path, arrays):
    """The first panel is the raw, grey by grey, apart from its label and the scale bar."""
    random = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    sheet = drawn(tmp_path / "a.png", (random, *arrays[1:]))
    for row, z in enumerate([0, 2]):
        same = (panel(sheet, row, 0) == random[z][..., None]).all(axis=-1)
        assert same[20:30].all()
        assert same.mean() > 0.7


def test_sections_without_truth_or_prediction_are_plain(tmp_path, arrays):
    """Where there is nothing, the three panels are the same grey."""
    sheet = drawn(tmp_path / "a.png", arrays)
    for column in range(3):
        assert (panel(sheet, 0, column)[20:40] == 100).all()


def test_shown_decides_the_outline(tmp_path, arrays):
    """Below the level shown a prediction is tinted but not outlined."""
    found = panel(drawn(tmp_path / "a.png", arrays, shown=0.95), row=1, column=2)
    assert not (found == PREDICTED).all(axis=-1).any()
    assert (found[arrays[2][2] > 0] != 100).any()


@pytest.mark.parametrize(("nm_per_voxel", "nm"), [(8.0, 200), (4.6, 200), (20.0, 1000)])
def test_scale_bar_is_as_long_as_it_says(tmp_path, arrays, nm_per_voxel, nm):
    """The white bar in the lower right of the raw panel is the longest that takes up a third."""
    found = panel(drawn(tmp_path / "a.png", arrays, nm_per_voxel=nm_per_voxel), row=1, column=0)
    white = (found[-9:] == 255).all(axis=-1)
    longest = max(white.sum(axis=1))
    assert abs(longest - nm / nm_per_voxel) <= 2


def test_labels_stay_in_their_panel(tmp_path):
    """Also in a narrow picture nothing is written over the truth and the prediction."""
    raw = np.full((1, 60, 60), 100, np.uint8)
    montage(tmp_path / "a.png", raw, raw > 200, np.zeros(raw.shape), sections=[0], nm_per_voxel=8.0)
    with Image.open(tmp_path / "a.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    assert (sheet[HEADER:, 60 + GAP : 120 + GAP] == 100).all()


def test_the_arrays_are_left_alone(tmp_path, arrays):
    """Drawing changes nothing of what it draws."""
    before = [a.copy() for a in arrays]
    drawn(tmp_path / "a.png", arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


# how the three kinds of colour blindness see linear RGB. Source: Machado, Oliveira, Fernandes 2009
BLIND = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "none": np.eye(3),
    "of all colours": np.full((3, 3), 1 / 3),
}


@pytest.mark.parametrize("kind", BLIND)
def test_right_false_and_missed_are_told_apart_by_everyone(kind):
    """Also with one kind of cone missing, or printed in grey, the three colours differ."""
    linear = (np.array([RIGHT, FALSE, MISSED]) / 255) ** 2.2
    seen = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1) ** (1 / 2.2) * 255
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 25


def test_both_sides_are_compared_voxel_by_voxel():
    """A voxel has the colour of what became of it at edges, a tint inside, grey elsewhere."""
    random = np.random.default_rng(0)
    predicted, true = random.random((2, 30, 40)) < 0.3
    panel = compared(np.full((30, 40), 100, np.uint8), predicted, true)
    for mask, colour in (
        (predicted & true, RIGHT),
        (predicted & ~true, FALSE),
        (true & ~predicted, MISSED),
    ):
        alone = mask & ~np.roll(mask, 1, 0)
        assert alone.any()
        assert (panel[alone] == colour).all()
    assert (panel[~predicted & ~true] == 100).all()
