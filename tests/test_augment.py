"""Augmentations, each alone, on volumes of which raw and ids say where they come from."""

import math
from collections import Counter

import numpy as np
import pytest

from cleftcli.augment import AUGMENTATIONS, CLEFTS, RAW, choose, nodes, reach
from cleftcli.errors import UsageError
from cleftcli.gunpowder_import import gp
from cleftcli.sampling import VolumeSource, open_source
from cleftcli.volumes import Space, create_volume

SHAPE, VOXEL_SIZE = (12, 40, 40), (40.0, 8.0, 8.0)
OFFSET, PATCH, CONTEXT = (4, 12, 12), (4, 16, 16), (1, 4, 4)
BASE = 2**60  # of ids: no float holds them apart
PARAMETERS = [(n, p) for n, kind in AUGMENTATIONS.items() for p in kind.model_fields]
IN_NM = [n for n, kind in AUGMENTATIONS.items() if any("_nm" in p for p in kind.model_fields)]
MOVING = [n for n, kind in AUGMENTATIONS.items() if CLEFTS in kind.moves]
STAYING = [n for n in AUGMENTATIONS if n not in MOVING]
REACHING = [n for n in AUGMENTATIONS if any(reach({n: 1.0}, VOXEL_SIZE))]


def volumes():
    """Name -> raw and ids: noise and where it is bright; each axis as a ramp, and numbers."""
    raw = np.random.default_rng(0).integers(20, 236, SHAPE, dtype=np.uint8)
    other, lost = raw.copy(), raw.copy()
    other[6], lost[5:7] = 255 - other[6], 77
    numbers = (BASE + np.arange(math.prod(SHAPE), dtype=np.uint64)).reshape(SHAPE)
    ramps = np.indices(SHAPE, np.float32) / SHAPE[1]
    noise = {"noise": raw, "one section else": other, "two lost": lost}
    return {
        **{name: (data, (data > 127).astype(np.uint8)) for name, data in noise.items()},
        **{axis: (ramp, numbers) for axis, ramp in zip("zyx", ramps, strict=True)},
    }


@pytest.fixture(scope="module")
def tissue():
    """Raw noise in [0, 255]; its cleft mask is where it is above 127."""
    return volumes()["noise"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path, found = tmp_path_factory.mktemp("augment"), {}
    for name, pair in volumes().items():
        for kind, data in zip(("raw", "ids"), pair, strict=True):
            made = create_volume(
                f"{path}/{name}.zarr/{kind}",
                shape=SHAPE,
                dtype=data.dtype,
                chunks=SHAPE,
                space=Space(VOXEL_SIZE),
                attributes={"intensity_range": [0, 1 if data.dtype == np.float32 else 255]},
            )
            made.write(made.roi, data)
        addresses = (f"{path}/{name}.zarr/raw", f"{path}/{name}.zarr/ids")
        found[name] = open_source(*addresses, None, PATCH)
    return found


@pytest.fixture(scope="module")
def augmented(sources):
    """A function: augmentations and a seed -> raw of a patch, ids of it with context."""

    def run(
        augment,
        *,
        seed=1,
        of="noise",
        offset=OFFSET,
        shape=PATCH,
        context=CONTEXT,
        voxel_size=VOXEL_SIZE,
    ):
        pipeline = VolumeSource(sources[of])
        for node in nodes(choose(augment), voxel_size):
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


@pytest.fixture(scope="module")
def places(augmented):
    """A function: augmentations and a seed -> where raw (3, z, y, x) and ids come from, zyx."""

    def run(augment, **options):
        found = [augmented(augment, of=axis, **options) for axis in "zyx"]
        numbers = (found[0][1] - np.uint64(BASE)).astype(int)
        return np.stack([raw for raw, _ in found]) * SHAPE[1], np.stack(
            np.unravel_index(numbers, SHAPE)
        )

    return run


def middle(wide):
    """The patch cut out of its context."""
    return wide[(..., *(slice(c, -c or None) for c in CONTEXT))]


def box(data, offset=OFFSET, shape=PATCH, context=(0, 0, 0)):
    """What a patch holds when nothing is done to it."""
    return data[
        tuple(slice(o - c, o + n + c) for o, n, c in zip(offset, shape, context, strict=True))
    ]


def own(context=(0, 0, 0)):
    """Where each voxel of a patch lies (3, z, y, x)."""
    return np.stack([box(axis, context=context) for axis in np.indices(SHAPE)])


def table(name, factor=1.0, probability=1.0):
    """An augmentation with its default lengths times a factor."""
    fields = AUGMENTATIONS[name].model_fields.items()
    lengths = {p: f.default * factor for p, f in fields if p.endswith("_nm")}
    return {name: {"probability": probability, **lengths}}


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_dtype_and_range_are_kept(augmented, name, probability):
    """A patch keeps its shape and dtype, and raw stays in [0, 1]."""
    for seed in range(3):
        raw, ids = augmented({name: probability}, seed=seed)
        assert (raw.shape, raw.dtype) == (PATCH, np.float32)
        assert (ids.shape, ids.dtype) == ((6, 24, 24), np.uint8)
        assert np.isfinite(raw).all()
        assert raw.min() >= 0
        assert raw.max() <= 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_zero_does_nothing(augmented, name):
    """With probability 0 the patch is the volume's, to the bit."""
    expected = augmented({})
    for seed in range(5):
        raw, ids = augmented({name: 0.0}, seed=seed)
        assert raw.tobytes() == expected[0].tobytes()
        assert ids.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability_one_always_acts(augmented, tissue, name):
    """With probability 1 no patch is left as it is."""
    for seed in range(5):
        assert np.abs(augmented({name: 1.0}, seed=seed)[0] - box(tissue[0]) / 255).max() > 0.01


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n not in ("flip", "rotate", "shift")])
def test_probability_is_a_share(augmented, name):
    """An augmentation acts on about as many patches, or sections, as its probability says."""
    before = augmented({})[0]
    acted = [
        (augmented({name: 0.25}, seed=seed)[0] != before).any(axis=(1, 2)) for seed in range(120)
    ]
    assert 0.15 <= np.mean(acted) <= 0.35


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_seed_decides(augmented, name):
    """The same seed gives the same patch; seeds differ."""
    first = [augmented({name: 0.5}, seed=seed) for seed in range(8)]
    again = [augmented({name: 0.5}, seed=seed) for seed in range(8)]
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one[0], same[0])
        assert np.array_equal(one[1], same[1])
    assert len({raw.tobytes() for raw, _ in first}) > 1


def test_what_moves_ids():
    """Ids go where tissue does, and stay where a section lies or looks wrong (Heinrich 2018)."""
    assert {"flip", "rotate", "elastic", "shift"} <= set(MOVING)
    assert {"slip", "defocus", "noise", "artefact", "missing_section"} <= set(STAYING)


@pytest.mark.parametrize("name", MOVING)
def test_raw_and_ids_move_together(places, name):
    """Where raw and ids move, each voxel of both is from the same place, and ids are real."""
    moved = 0
    for seed in range(8):
        raw, ids = places({name: 1.0}, seed=seed)
        moved += not np.array_equal(ids, own(CONTEXT))
        assert np.abs(raw - middle(ids)).max() <= 0.501  # ids are from the nearest voxel
        assert np.abs(raw[0] - middle(ids)[0]).max() <= 1e-4
    assert moved == 8


@pytest.mark.parametrize("name", STAYING)
def test_ids_stay_where_only_raw_changes(augmented, places, name):
    """Where raw alone is changed, ids are left alone to the bit."""
    for seed in range(8):
        assert np.array_equal(places({name: 1.0}, seed=seed)[1], own(CONTEXT))
        assert np.array_equal(augmented({name: 1.0}, seed=seed)[1], augmented({})[1])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_sections_are_never_mixed(augmented, name):
    """A volume with one section else gives patches with at most one section else."""
    counts = set()
    for seed in range(12):
        pair = [augmented({name: 0.5}, seed=seed, of=v) for v in ("noise", "one section else")]
        counts |= {(a != b).any(axis=(1, 2)).sum() for a, b in zip(*pair, strict=True)}
    assert 1 in counts
    assert max(counts) == 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_lost_sections_stay_lost(augmented, name):
    """A section without contrast is given none, so that the network sees it grey."""
    for seed in range(8):
        raw, _ = augmented({name: 1.0}, seed=seed, of="two lost")
        assert (raw.min(axis=(1, 2)) == raw.max(axis=(1, 2))).sum() >= 2


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", [*MOVING, *REACHING])
def test_nothing_comes_from_beyond_the_reach(places, name, factor):
    """Voxels come from the patch grown by the reach, and some from about half as far."""
    chosen = table(name, factor)
    far = np.reshape(reach(chosen, VOXEL_SIZE), (3, 1, 1, 1))
    outside = 0.0
    for seed in range(30):
        raw, ids = places(chosen, seed=seed)
        for found, home in ((raw, own()), (ids, own(CONTEXT))):
            low, high = (f(axis=(1, 2, 3), keepdims=True) for f in (home.min, home.max))
            beyond = np.maximum(low - found, found - high)
            assert (beyond <= far + 1e-3).all()
        outside = max(outside, np.maximum(own().min() - raw[1:], raw[1:] - own()[1].max()).max())
    assert name not in REACHING or outside > 0.45 * far.max()


@pytest.mark.parametrize("name", REACHING)
def test_reach_is_in_voxels_of_the_size(name):
    """Twice the length, or voxels of half the size, is twice the reach; none along z."""
    z, y, x = reach(table(name, 1.6), VOXEL_SIZE)
    assert (z, y) == (0, x)
    assert reach(table(name, 3.2), VOXEL_SIZE) == (0, 2 * y, 2 * x)
    assert reach(table(name, 1.6), (20, 4, 4)) == (0, 2 * y, 2 * x)
    assert reach(table(name, 1.6), (40, 4, 8)) == (0, 2 * y, 2 * x)  # turned, y is x
    assert reach(table(name, 1.6, probability=0.0), VOXEL_SIZE) == (0, 0, 0)


def test_reaches_add_up():
    """What displaces after another displaces by more: the reaches are added."""
    alone = [reach({name: 0.5}, VOXEL_SIZE) for name in AUGMENTATIONS]
    together = reach(dict.fromkeys(AUGMENTATIONS, 0.5), VOXEL_SIZE)
    assert together == tuple(np.sum(alone, axis=0))
    assert together == (0, 7, 7)  # 24, 10 and 10 nm
    assert reach({}, VOXEL_SIZE) == (0, 0, 0)


@pytest.mark.parametrize("name", IN_NM)
def test_lengths_are_in_nm(augmented, name):
    """Twice the nm do to the bit what voxels of half the size do, and not what one did."""
    for seed in range(3):
        twice = augmented(table(name, 2), seed=seed)
        finer = augmented(table(name), seed=seed, voxel_size=(20, 4, 4))
        once = augmented(table(name), seed=seed)
        assert all(np.array_equal(a, b) for a, b in zip(twice, finer, strict=True))
        assert not np.array_equal(twice[0], once[0])


@pytest.mark.parametrize("name", REACHING)
def test_twice_the_nm_is_twice_as_far(places, name):
    """Displacements are proportional to their length in nm, but for whole voxels."""
    length, nm = ("sigma_nm", 6) if name == "elastic" else ("max_nm", 20)
    for seed in range(5):
        one, two = (
            places({name: {"probability": 1, length: nm * factor}}, seed=seed)[0] - own()
            for factor in (1, 2)
        )
        assert np.abs(two - 2 * one).max() <= (1e-3 if name == "elastic" else 1.001)
        assert np.abs(two).max() > 0.5


def test_elastic_is_smooth(places):
    """One field for all sections, without folds or jumps, also at the edges of the patch."""
    deviations = []
    for seed in range(40):
        raw = places({"elastic": 1.0}, seed=seed)[0]
        moved = (raw - own())[1:]
        np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-3)
        for axis in (1, 2):
            assert np.diff(raw[axis], axis=axis).min() > 0.5
            assert np.diff(raw[axis], axis=axis).max() < 1.5
        deviations.append(moved[:, 0, 0, 0])  # this corner is a voxel of the grid's first cell
    assert 0.6 < np.std(deviations) < 1.2  # 8 nm are 1 voxel


def test_slip_displaces_single_sections(places):
    """Each slipped section is displaced as a whole by whole voxels; the others lie still."""
    seen = []
    for seed in range(30):
        raw, _ = places({"slip": {"probability": 0.5, "max_nm": 16}}, seed=seed)
        moved = (raw - own())[1:]
        offsets = moved[..., :1, :1].round()
        np.testing.assert_allclose(moved, np.broadcast_to(offsets, moved.shape), atol=1e-3)
        seen.append(offsets[..., 0, 0].T)
    offsets = np.concatenate(seen)
    assert set(offsets[:, 0]) == set(offsets[:, 1]) == {-2, -1, 0, 1, 2}
    assert 0.4 < (offsets == 0).all(axis=1).mean() < 0.7


def test_shift_displaces_all_later_sections(places):
    """Before the first shift sections lie still; between two all are displaced alike."""
    steps, still = [], 0
    for seed in range(60):
        _, ids = places({"shift": {"probability": 0.2, "max_nm": 30}}, seed=seed)
        moved = (ids - own(CONTEXT))[1:]
        assert (moved == moved[..., :1, :1]).all()
        offsets = moved[..., 0, 0].T  # (section, 2)
        steps.append((np.diff(offsets, axis=0) != 0).any(axis=1))
        still += not offsets[0].any()
    assert 0.1 < np.mean(steps) < 0.3
    assert still > 40


def test_flips_and_turns_together(augmented, tissue):
    """Raw and ids take each of the sixteen ways together, also beside the volume's faces.

    With these probabilities all are alike: 300 draws bring each about 19 times.
    """
    corner = (0, 0, 24)
    voxels, seen = np.sort(box(tissue[0], corner).ravel()) / 255, Counter()
    for seed in range(300):
        raw, ids = augmented({"flip": 0.875, "rotate": 0.75}, seed=seed, offset=corner)
        assert np.array_equal(raw > 0.5, middle(ids) > 0)
        np.testing.assert_allclose(np.sort(raw.ravel()), voxels, atol=1e-6)
        seen[raw.tobytes()] += 1
    assert len(seen) == 16  # two of z, eight of a square
    assert 6 <= min(seen.values()) <= max(seen.values()) <= 38


def mirrored(a):
    """The seven ways to mirror a patch along some of its axes."""
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        yield np.flip(a, axes)


def turned(a):
    """One, two and three quarters in plane."""
    for quarters in (1, 2, 3):
        yield np.rot90(a, quarters, axes=(1, 2))


ORIENTED = {"flip": mirrored, "rotate": turned}


@pytest.mark.parametrize("name", ORIENTED)
@pytest.mark.parametrize("probability", [1.0, 0.5, 0.25])
def test_a_patch_is_oriented_as_often_as_said(augmented, tissue, name, probability):
    """Its probability is that of the patch: how often it is anything but itself, in which way."""
    first, wide = box(tissue[0]) / 255, box(tissue[1], context=CONTEXT)
    raws, ids = list(ORIENTED[name](first)), list(ORIENTED[name](wide))
    seen, draws = Counter(), 140
    for seed in range(draws):
        raw, found = augmented({name: probability}, seed=seed)
        ways = [n for n, way in enumerate(raws) if np.allclose(raw, way, atol=1e-6)]
        if not ways:
            assert np.allclose(raw, first, atol=1e-6)
            assert np.array_equal(found, wide)
            continue
        assert np.array_equal(found, ids[ways[0]])
        seen[ways[0]] += 1
    spread = 3 * np.sqrt(draws * probability * (1 - probability))
    assert abs(sum(seen.values()) - draws * probability) <= spread
    assert set(seen) == set(range(len(raws)))


def test_rotate_of_an_oblong_patch(augmented, tissue):
    """An oblong patch keeps its shape and its centre: it is cut from the turned volume."""
    straight = box(tissue[0], (4, 14, 10), (4, 12, 20)) / 255
    across = box(tissue[0], (4, 10, 14), (4, 20, 12)) / 255
    ways = [np.rot90(straight, 2, (1, 2)), *(np.rot90(across, n, (1, 2)) for n in (1, 3))]
    seen = set()
    for seed in range(20):
        raw, ids = augmented({"rotate": 1.0}, seed=seed, offset=(4, 14, 10), shape=(4, 12, 20))
        assert np.array_equal(raw > 0.5, middle(ids) > 0)
        seen |= {n for n, way in enumerate(ways) if np.allclose(raw, way, atol=1e-6)}
    assert seen == {0, 1, 2}


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


def test_contrast_and_grayscale_have_parameters(augmented, tissue):
    """Contrast, scale and shift are what a table says."""
    before = box(tissue[0]) / 255
    mean = before.mean(axis=(1, 2), keepdims=True)
    found = augmented({"low_contrast": {"probability": 1, "contrast": 0.25}})[0]
    np.testing.assert_allclose(found, mean + 0.25 * (before - mean), atol=1e-5)
    found = augmented({"grayscale": {"probability": 1, "scale": 0, "shift": 0.02}})[0]
    shift = (found - before).mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, before + shift, atol=1e-5)
    assert 0.001 < np.abs(shift).max() <= 0.02


def test_defocus_is_a_gaussian_in_plane(augmented, tissue):
    """Each section is blurred by up to max_sigma_nm, differently; its mean stays."""
    before, left = box(tissue[0]) / 255, []
    for seed in range(10):
        found = augmented({"defocus": 1.0}, seed=seed)[0]
        np.testing.assert_allclose(found.mean(axis=(1, 2)), before.mean(axis=(1, 2)), atol=0.03)
        left += (found.std(axis=(1, 2)) / before.std(axis=(1, 2))).tolist()
    # white noise keeps 1 / (2 sqrt(pi) sigma) of its deviation: 0.11 at 2.5 voxels
    assert 0.07 < min(left) < 0.2
    assert max(left) > 0.8


def test_noise_is_normal(augmented, tissue):
    """Noise has mean 0 and a standard deviation between 0 and max_sigma, by section."""
    before, sigmas = box(tissue[0]) / 255, []
    for seed in range(10):
        found = augmented({"noise": {"probability": 1, "max_sigma": 0.05}}, seed=seed)[0] - before
        assert np.abs(found.mean(axis=(1, 2))).max() < 0.02
        sigmas += found.std(axis=(1, 2)).tolist()
    assert 0.04 < max(sigmas) < 0.06
    assert min(sigmas) < 0.01


def test_artefact_is_a_dark_stripe(augmented, tissue):
    """A stripe is darkened by at most max_darkness, and half of it is width_nm wide."""
    before, shares = box(tissue[0]) / 255, []
    for seed in range(20):
        chosen = {"probability": 1, "width_nm": 32, "max_darkness": 0.6}
        lost = 1 - augmented({"artefact": chosen}, seed=seed)[0] / before
        assert lost.min() > -1e-3
        assert lost.max() <= 0.601
        deepest = lost.max(axis=(1, 2), keepdims=True)
        shares += (lost > 0.5 * deepest).mean(axis=(1, 2)).tolist()
    assert 0.1 < np.mean(shares) < 0.4  # 4 of 16 voxels are wide; some lie beside the section


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
    assert nodes(choose({}), VOXEL_SIZE) == []


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_number_is_the_probability(name):
    """A number, a table of it, and a table with every default spelled out say the same."""
    (chosen,) = choose({name: 0.5})
    assert chosen.probability == 0.5
    assert choose({name: {"probability": 0.5}}) == (chosen,) == choose({name: chosen.model_dump()})
    assert hash(chosen) == hash(choose({name: chosen.model_dump()})[0])


def test_unknown_augmentation_names_those_there_are():
    """An unknown augmentation is a usage error with its key, and lists the augmentations."""
    with pytest.raises(UsageError, match=r"^augment\.filp: unknown; .*did you mean flip\?$") as e:
        choose({"flip": 0.5, "filp": 0.5})
    assert all(name in str(e.value) for name in AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_unknown_parameter_names_those_there_are(name):
    """An unknown parameter is a usage error with its key, and lists the parameters."""
    with pytest.raises(UsageError, match=rf"^augment\.{name}\.nonsense: unknown; there are") as e:
        choose({name: {"probability": 0.5, "nonsense": 1}})
    assert all(p in str(e.value) for p in AUGMENTATIONS[name].model_fields)


def test_the_nearest_parameter_is_suggested():
    """A parameter without its unit is told the one that was meant."""
    with pytest.raises(UsageError, match=r"augment\.elastic\.sigma: .*did you mean sigma_nm\?"):
        choose({"elastic": {"probability": 0.5, "sigma": 2}})


@pytest.mark.parametrize("value", [-0.1, 1e9, math.nan, math.inf, "often", True, None, [1]])
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_impossible_parameters_are_refused(name, parameter, value):
    """A wrong type or impossible value is a usage error of one line with the key and the value."""
    with pytest.raises(UsageError, match=rf"^augment\.{name}\.{parameter}: .*, got") as caught:
        choose({name: {"probability": 0.5, parameter: value}})
    assert str(caught.value).endswith(repr(value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [-0.1, 1.01, math.nan, math.inf, "often", True, None, [1]])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_impossible_probability_is_refused(name, value):
    """What is no probability is a usage error that names the key and the value."""
    with pytest.raises(UsageError, match=rf"augment\.{name}\.probability") as caught:
        choose({name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_table_says_its_probability(name):
    """Without a probability a table is a usage error: there is no default to guess."""
    with pytest.raises(UsageError, match=rf"augment\.{name}\.probability: field required"):
        choose({name: {}})


def test_folding_tissue_is_refused():
    """Control points that would pass each other are a usage error."""
    with pytest.raises(UsageError, match=r"^augment\.elastic: sigma_nm .*folds"):
        choose({"elastic": {"probability": 0.5, "spacing_nm": 60}})


def test_every_mistake_is_named_at_once():
    """Two mistakes in a table have a line each."""
    with pytest.raises(UsageError) as caught:
        choose({"elastic": {"probability": 2, "sigma": 1}})
    assert len(str(caught.value).splitlines()) == 2
