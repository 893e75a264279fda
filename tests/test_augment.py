"""Augmentations, each alone, on a volume whose ids can be read off its raw."""

import numpy as np
import pytest

from cleftcli.augment import AUGMENTATIONS, CLEFTS, RAW, nodes
from cleftcli.errors import UsageError
from cleftcli.gunpowder_import import gp
from cleftcli.sampling import VolumeSource, open_source
from cleftcli.volumes import Space, create_volume

SHAPE = (12, 40, 40)
OFFSET, PATCH, CONTEXT = (4, 12, 12), (4, 16, 16), (1, 4, 4)
GEOMETRIC = ("flip", "rotate")


@pytest.fixture(scope="module")
def tissue():
    """Raw noise in [0, 255]; its cleft mask is where it is above 127."""
    raw = np.random.default_rng(0).integers(20, 236, SHAPE, dtype=np.uint8)
    return raw, (raw > 127).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tissue, tmp_path_factory):
    path = tmp_path_factory.mktemp("augment") / "a.zarr"
    for name, data in zip(("raw", "mask"), tissue, strict=True):
        made = create_volume(
            f"{path}/{name}", shape=SHAPE, dtype=np.uint8, chunks=SHAPE, space=Space((40, 8, 8))
        )
        made.write(made.roi, data)
    return open_source(f"{path}/raw", f"{path}/mask", None, PATCH)


@pytest.fixture(scope="module")
def augmented(source):
    """A function: augmentations and a seed -> raw of a patch, ids of it with context."""

    def run(chosen, *, seed=1, offset=OFFSET, shape=PATCH, context=CONTEXT):
        pipeline = VolumeSource(source)
        for node in nodes(chosen):
            pipeline = pipeline + node
        wide = [n - c for n, c in zip(offset, context, strict=True)]
        extent = [n + 2 * c for n, c in zip(shape, context, strict=True)]
        request = gp.BatchRequest(random_seed=seed)
        request[RAW] = gp.ArraySpec(gp.Roi(offset, shape))
        request[CLEFTS] = gp.ArraySpec(gp.Roi(wide, extent))
        with gp.build(pipeline):
            batch = pipeline.request_batch(request)
        return batch[RAW].data, batch[CLEFTS].data

    return run


def middle(wide):
    """The patch cut out of its context."""
    return wide[tuple(slice(c, -c or None) for c in CONTEXT)]


def box(data, offset=OFFSET, shape=PATCH, context=(0, 0, 0)):
    """What a patch holds when nothing is done to it."""
    return data[
        tuple(slice(o - c, o + n + c) for o, n, c in zip(offset, shape, context, strict=True))
    ]


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_dtype_and_range_are_kept(augmented, name, probability):
    """A patch keeps its shape and dtype, and raw stays in [0, 1]."""
    raw, ids = augmented({name: probability})
    assert (raw.shape, raw.dtype) == (PATCH, np.float32)
    assert (ids.shape, ids.dtype) == ((6, 24, 24), np.uint8)
    assert np.isfinite(raw).all()
    assert raw.min() >= 0
    assert raw.max() <= 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_zero_does_nothing(augmented, tissue, name):
    """With probability 0 the patch is the volume's, voxel by voxel."""
    for seed in range(5):
        raw, ids = augmented({name: 0.0}, seed=seed)
        np.testing.assert_allclose(raw, box(tissue[0]) / 255, atol=1e-6)
        assert np.array_equal(ids, box(tissue[1], context=CONTEXT))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_one_always_acts(augmented, tissue, name):
    """With probability 1 no patch is left as it is."""
    for seed in range(5):
        assert np.abs(augmented({name: 1.0}, seed=seed)[0] - box(tissue[0]) / 255).max() > 0.01


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seed_decides(augmented, name):
    """The same seed gives the same patch; seeds differ."""
    first = [augmented({name: 0.5}, seed=seed) for seed in range(8)]
    again = [augmented({name: 0.5}, seed=seed) for seed in range(8)]
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one[0], same[0])
        assert np.array_equal(one[1], same[1])
    assert len({raw.tobytes() for raw, _ in first}) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_ids_stay_or_move_with_raw(augmented, tissue, name):
    """Ids are left alone, or raw has gone the same way: the mask is still read off the raw."""
    for seed in range(8):
        raw, ids = augmented({name: 1.0}, seed=seed)
        moved = not np.array_equal(ids, box(tissue[1], context=CONTEXT))
        assert moved == (name in GEOMETRIC)
        assert not moved or np.array_equal(raw > 0.5, middle(ids) > 0)


def test_flips_and_turns_together(augmented, tissue):
    """Raw and ids take each of the sixteen ways together, also beside the volume's faces."""
    corner = (0, 0, 24)
    voxels, seen = np.sort(box(tissue[0], corner).ravel()) / 255, set()
    for seed in range(150):
        raw, ids = augmented(dict.fromkeys(GEOMETRIC, 0.5), seed=seed, offset=corner)
        assert np.array_equal(raw > 0.5, middle(ids) > 0)
        np.testing.assert_allclose(np.sort(raw.ravel()), voxels, atol=1e-6)
        seen.add(raw.tobytes())
    assert len(seen) == 16  # two of z, eight of a square


def test_flip_mirrors_every_axis(augmented, tissue):
    """A flip with certainty mirrors z, y and x of raw, and of ids with their context."""
    raw, ids = augmented({"flip": 1.0})
    np.testing.assert_allclose(raw, box(tissue[0])[::-1, ::-1, ::-1] / 255, atol=1e-6)
    assert np.array_equal(ids, box(tissue[1], context=CONTEXT)[::-1, ::-1, ::-1])


def test_rotate_transposes_in_plane(augmented, tissue):
    """A turn with certainty swaps y and x, and leaves the order of sections."""
    raw, ids = augmented({"rotate": 1.0})
    np.testing.assert_allclose(raw, box(tissue[0]).swapaxes(1, 2) / 255, atol=1e-6)
    assert np.array_equal(ids, box(tissue[1], context=CONTEXT).swapaxes(1, 2))


def test_rotate_of_an_oblong_patch(augmented, tissue):
    """An oblong patch keeps its shape and its centre: it is cut from the turned volume."""
    raw, ids = augmented({"rotate": 1.0}, offset=(4, 14, 10), shape=(4, 12, 20))
    np.testing.assert_allclose(
        raw, box(tissue[0], (4, 10, 14), (4, 20, 12)).swapaxes(1, 2) / 255, atol=1e-6
    )
    assert np.array_equal(raw > 0.5, middle(ids) > 0)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_probability_is_a_frequency(augmented, tissue, name):
    """An augmentation acts about as often as its probability says."""
    first = box(tissue[0]) / 255
    axis = {"flip": lambda a: a[::-1], "rotate": lambda a: a.swapaxes(1, 2)}[name]
    hits = 0
    for seed in range(200):
        raw, _ = augmented({name: 0.25}, seed=seed)
        # sums over the plane tell a flip in z, sums over z a turn, whatever else was flipped
        tell = (1, 2) if name == "flip" else 0
        hits += np.allclose(raw.sum(tell), axis(first).sum(tell), atol=1e-3)
    assert 30 <= hits <= 70


def test_grayscale_treats_each_section_by_itself(augmented, tissue):
    """Each section is scaled by 0.9 to 1.1 about its mean and shifted by up to 0.1."""
    found, before = augmented({"grayscale": 1.0})[0], box(tissue[0]) / 255
    scales = []
    for section, original in zip(found, before, strict=True):
        scale, shift = np.polyfit(original.ravel(), section.ravel(), 1)
        assert 0.9 <= scale <= 1.1
        assert abs(section.mean() - original.mean()) <= 0.1
        np.testing.assert_allclose(section, scale * original + shift, atol=0.03)  # clipped at 0, 1
        scales.append(round(scale, 4))
    assert len(set(scales)) == len(scales)


def test_missing_sections_are_blank(augmented, tissue):
    """About half of the sections are blank at probability 0.5; the others are as they were."""
    blank = 0
    for seed in range(20):
        raw, _ = augmented({"missing_section": 0.5}, seed=seed)
        for section, original in zip(raw, box(tissue[0]) / 255, strict=True):
            if section.min() == section.max():
                blank += 1
            else:
                np.testing.assert_allclose(section, original, atol=1e-6)
    assert 25 <= blank <= 55


def test_low_contrast_halves_the_contrast(augmented, tissue):
    """A section of low contrast has its mean and half of its deviations."""
    found, before = augmented({"low_contrast": 1.0})[0], box(tissue[0]) / 255
    mean = before.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, mean + 0.5 * (before - mean), atol=1e-5)


def test_order_is_that_of_the_table(augmented):
    """The order in which a config names augmentations decides nothing."""
    chosen = dict.fromkeys(AUGMENTATIONS, 0.5)
    backwards = dict(reversed(chosen.items()))
    for seed in range(5):
        one, other = augmented(chosen, seed=seed), augmented(backwards, seed=seed)
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_nothing_chosen_is_no_node():
    """Without augmentations there is nothing in the way."""
    assert nodes({}) == []


def test_unknown_augmentation_names_those_there_are():
    """An unknown augmentation is a usage error with its key, and lists the augmentations."""
    with pytest.raises(UsageError, match=r"augment\.filp") as caught:
        nodes({"flip": 0.5, "filp": 0.5})
    assert all(name in str(caught.value) for name in AUGMENTATIONS)


@pytest.mark.parametrize("probability", [-0.1, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_impossible_probability_is_refused(name, probability):
    """A probability outside 0 to 1 is a usage error that names the key and the value."""
    with pytest.raises(UsageError, match=rf"augment\.{name}.*{probability}"):
        nodes({name: probability})
