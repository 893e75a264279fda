"""Training batches: where patches come from, what they hold, and that they can be made again."""

import itertools
import math

import h5py
import numpy as np
import pytest
import torch

from cleftcli.augment import AUGMENTATIONS, reach
from cleftcli.errors import InputError, UsageError
from cleftcli.feed import made_ahead
from cleftcli.geometry import Roi, whole
from cleftcli.labels import BACKGROUND, IGNORE, TARGETS
from cleftcli.sampling import Batches, open_source
from cleftcli.volumes import Reading, Space, create_volume

SHAPE, VOXEL_SIZE, PATCH = (12, 40, 44), (40.0, 8.0, 8.0), (4, 16, 16)
VOXELS = math.prod(SHAPE)


def store(address, data, *, voxel_size=VOXEL_SIZE, **attributes):
    made = create_volume(
        str(address),
        shape=data.shape,
        dtype=data.dtype,
        chunks=(4, 16, 16),
        space=Space(voxel_size),
        attributes=attributes,
    )
    made.write(made.roi, data)
    return str(address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sampling")


@pytest.fixture(scope="module")
def ids():
    """Three clefts, two of them touching, and a corner that nobody knows."""
    found = np.full(SHAPE, BACKGROUND, np.uint64)
    found[2:6, 8:12, 4:30] = 5
    found[2:6, 12:15, 4:30] = 9
    found[9:11, 30:33, 20:40] = 7
    found[:3, 34:, 36:] = IGNORE
    return found


@pytest.fixture(scope="module")
def places(folder):
    """A raw volume in which each voxel is the number of its place."""
    numbers = np.arange(VOXELS, dtype=np.float32).reshape(SHAPE)
    return store(folder / "places.zarr/raw", numbers, intensity_range=[0, VOXELS])


@pytest.fixture(scope="module")
def clefts(folder, ids):
    return store(folder / "clefts.zarr/ids", ids)


@pytest.fixture(scope="module")
def source(places, clefts):
    return open_source(places, clefts, None, PATCH)


def batches(*sources, **options):
    chosen = {
        "input_shape": PATCH,
        "targets": ("mask",),
        "batch_size": 2,
        "seed": 1,
        "min_cleft_voxels": 0,
        "reject_probability": 0.0,
    }
    return Batches(sources, **{**chosen, **options})


def numbers_of(batch):
    """(n, z, y, x): the places that raw tells."""
    return ((batch["raw"][:, 0].double() + 1) / 2 * VOXELS).round().long().numpy()


def corners_of(batch):
    """The first voxel of each patch."""
    return [np.unravel_index(n.min(), SHAPE) for n in numbers_of(batch)]


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(v.nan_to_num(9.0), other[k].nan_to_num(9.0)) for k, v in one.items()
    )


def test_what_a_batch_is(source):
    """Raw is (n, 1, z, y, x) float32 in [-1, 1]; targets are (n, z, y, x) of their dtypes."""
    batch = batches(source, targets=tuple(TARGETS), batch_size=3)[0]
    assert list(batch) == ["raw", *TARGETS]
    assert batch["raw"].shape == (3, 1, *PATCH)
    assert batch["raw"].dtype == torch.float32
    assert batch["raw"].min() >= -1
    assert batch["raw"].max() <= 1
    for name, target in TARGETS.items():
        assert batch[name].shape == (3, *PATCH)
        assert batch[name].numpy().dtype == target.dtype


def test_a_batch_depends_on_its_number_and_the_seed_alone(source):
    """Batch 3 is the same whatever was made before; numbers and seeds give other batches."""
    chosen = batches(source, augment=dict.fromkeys(AUGMENTATIONS, 0.5), targets=tuple(TARGETS))
    third, fourth = chosen[3], chosen[4]
    assert equal(chosen[3], third)
    assert not torch.equal(third["raw"], fourth["raw"])
    assert not torch.equal(third["raw"][0], third["raw"][1])
    other = batches(source, seed=2)
    assert not torch.equal(batches(source)[3]["raw"], other[3]["raw"])


def test_a_larger_batch_starts_with_the_smaller(source):
    """Patch k of batch i does not depend on how many patches the batch has."""
    chosen = {"augment": dict.fromkeys(AUGMENTATIONS, 0.5)}
    small, large = batches(source, **chosen)[5], batches(source, batch_size=4, **chosen)[5]
    assert all(torch.equal(v, large[k][:2]) for k, v in small.items())


def test_workers_change_nothing(source):
    """The batches are the same, and in order, made here or by one or two worker processes."""
    chosen = batches(
        source,
        augment=dict.fromkeys(AUGMENTATIONS, 0.5),
        targets=tuple(TARGETS),
        min_cleft_voxels=100,
        reject_probability=0.9,
    )
    indices = [4, 0, 7, 2]
    expected = [chosen[i] for i in indices]
    for workers in (0, 1, 2):
        found = list(made_ahead(chosen, indices, workers))
        assert len(found) == len(indices)
        assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


def test_raw_is_where_draw_says(source):
    """A patch without augmentation is the volume at the place that was drawn."""
    chosen = batches(source)
    for index in range(10):
        for k, numbers in enumerate(numbers_of(chosen[index])):
            random = np.random.default_rng(np.random.SeedSequence([1, index, k]))
            _, roi = chosen.draw(random)
            everything = np.arange(VOXELS).reshape(SHAPE)
            assert np.array_equal(numbers, everything[roi.within(whole(SHAPE))])


@pytest.mark.parametrize(
    ("shape", "augment"),
    [
        (PATCH, {}),
        (PATCH, {"flip": 0.5, "rotate": 0.5}),
        ((4, 8, 32), {"flip": 0.5}),
    ],
)
def test_patches_stay_inside_the_region(places, clefts, shape, augment):
    """No voxel of a patch lies outside its region: what is held out stays unseen."""
    region = Roi((2, 3, 5), (8, 33, 35))
    inside = open_source(places, clefts, str(region), shape)
    chosen = batches(inside, input_shape=shape, augment=augment, batch_size=4)
    positions = np.stack(
        np.unravel_index(np.stack([numbers_of(chosen[i]) for i in range(15)]), SHAPE), -1
    )
    assert (positions >= region.offset).all()
    assert (positions < region.end).all()


def test_displaced_patches_leave_the_region_by_the_reach(places, clefts):
    """What is displaced comes from the region grown by the reach, and does use it."""
    region = Roi((2, 10, 12), (8, 20, 20))
    lengths = {"probability": 0.5, "max_nm": 24}
    augment = {"flip": 0.5, "rotate": 0.5, "slip": lengths, "shift": lengths}
    far = reach(augment, VOXEL_SIZE)
    assert far == (0, 6, 6)
    chosen = batches(open_source(places, clefts, str(region), PATCH), augment=augment, batch_size=4)
    positions = np.stack(
        np.unravel_index(np.stack([numbers_of(chosen[i]) for i in range(15)]), SHAPE), -1
    )
    wide = region.grow(far)
    assert (positions >= wide.offset).all()
    assert (positions < wide.end).all()
    assert (positions[..., 1:] < region.offset[1:]).any()


def test_oblong_patches_are_not_turned(places, clefts):
    """Turned about its centre an oblong patch would leave the region: refused."""
    inside = open_source(places, clefts, None, (4, 8, 32))

    for rotate in (0.5, {"probability": 0.5}):
        with pytest.raises(UsageError, match="rotate"):
            batches(inside, input_shape=(4, 8, 32), augment={"rotate": rotate})
    assert batches(inside, input_shape=(4, 8, 32), augment={"rotate": 0.0})[0]


def test_every_position_is_drawn(places, clefts):
    """Patches lie at every position of the region, the last ones included."""
    tight = open_source(places, clefts, "3:8,20:37,10:27", PATCH)
    chosen = batches(tight, batch_size=8)
    seen = {tuple(int(n) for n in c) for i in range(12) for c in corners_of(chosen[i])}
    assert seen == set(itertools.product([3, 4], [20, 21], [10, 11]))


def test_regions_are_drawn_by_their_positions(places, clefts):
    """A region with three times the positions gives three times the patches."""
    small = open_source(places, clefts, "0:4,0:16,0:25", PATCH)  # 10 positions
    large = open_source(places, clefts, "4:8,16:36,0:21", PATCH)  # 30
    chosen = batches(small, large)
    drawn = [chosen.draw(np.random.default_rng(i))[0] for i in range(400)]
    assert 0.65 <= np.mean([s == large for s in drawn]) <= 0.85


def test_rejection_finds_clefts(source, ids):
    """Patches with too few cleft voxels are drawn again: nearly all then hold enough."""
    taken = {}
    for reject in (0.0, 0.98):
        chosen = batches(source, min_cleft_voxels=150, reject_probability=reject, batch_size=4)
        masks = [chosen[i]["mask"] for i in range(10)]
        taken[reject] = np.mean([(m == 1).sum(dim=(1, 2, 3)) >= 150 for m in masks])
    assert taken[0.98] >= 0.9
    assert taken[0.98] > taken[0.0] + 0.2


def test_poor_patches_are_kept_now_and_then(source):
    """Rejection is a probability: some patches without enough clefts are still seen."""
    chosen = batches(source, min_cleft_voxels=300, reject_probability=0.5)
    counts = [(chosen[i]["mask"] == 1).sum(dim=(1, 2, 3)).tolist() for i in range(30)]
    poor = np.mean(np.asarray(counts) < 300)
    assert 0 < poor < 1


def test_a_region_without_clefts_does_not_hang(places, folder):
    """Where there is nothing to find, a patch is given after all."""
    empty = store(folder / "empty.zarr/ids", np.full(SHAPE, BACKGROUND, np.uint64))
    nothing = open_source(places, empty, None, PATCH)
    chosen = batches(nothing, min_cleft_voxels=1, reject_probability=0.9999, batch_size=1)
    assert chosen[0]["mask"].sum() == 0


@pytest.mark.parametrize("kind", ["ids", "mask"])
def test_unknown_voxels_are_no_clefts(places, folder, kind):
    """Voxels that nobody knows do not make a patch worth keeping, in ids and in masks alike."""
    wanted = Roi((4, 20, 20), (8, 20, 24))
    data = np.full(SHAPE, BACKGROUND, np.uint64) if kind == "ids" else np.zeros(SHAPE, np.uint8)
    data[:4] = IGNORE if kind == "ids" else 255
    data[wanted.within(whole(SHAPE))] = 1
    truth = open_source(places, store(folder / f"u.zarr/{kind}", data), None, PATCH)
    chosen = batches(truth, min_cleft_voxels=200, reject_probability=0.99, batch_size=4)
    masks = torch.cat([chosen[i]["mask"] for i in range(8)])
    assert (((masks == 1).sum(dim=(1, 2, 3)) >= 200).float().mean()) >= 0.9


@pytest.mark.parametrize("name", TARGETS)
def test_a_mask_teaches_what_its_ids_would(places, folder, name):
    """A mask with 255 where nobody knows gives the targets of ids that say the same."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:7, 10:20, 10:30], mask[:, 25:30] = 1, 255
    ids = np.where(mask == 255, IGNORE, np.where(mask == 1, 4, BACKGROUND)).astype(np.uint64)
    found = [
        batches(
            open_source(places, store(folder / f"same_{name}.zarr/{kind}", data), None, PATCH),
            targets=(name,),
        )
        for kind, data in (("mask", mask), ("ids", ids))
    ]
    assert all(equal(found[0][i], found[1][i]) for i in range(5))


@pytest.mark.parametrize("name", TARGETS)
def test_a_patch_has_the_targets_of_the_whole(source, ids, name):
    """Targets are those of the whole volume, cut at the patch: to the bit, faces included."""
    target = TARGETS[name]
    scale = target.scale_nm(VOXEL_SIZE)
    everything = target.compute(ids, VOXEL_SIZE, scale, zero_is_cleft=False)
    chosen = batches(source, targets=(name,), batch_size=4)
    faces = set()
    for index in range(15):
        batch = chosen[index]
        for corner, found in zip(corners_of(batch), batch[name].numpy(), strict=True):
            roi = Roi(tuple(int(c) for c in corner), PATCH)
            expected = everything[roi.within(whole(SHAPE))]
            assert np.array_equal(found, expected, equal_nan=name != "mask")
            faces |= {a for a in range(3) if roi.offset[a] == 0 or roi.end[a] == SHAPE[a]}
    assert faces, "no patch touched a face: nothing was shown"


def test_targets_together_are_those_alone(source):
    """Each target has context enough beside others that need more or less."""
    together = batches(source, targets=tuple(TARGETS))[2]
    for name in TARGETS:
        alone = batches(source, targets=(name,))[2]
        assert torch.equal(alone[name].nan_to_num(9.0), together[name].nan_to_num(9.0))


@pytest.mark.parametrize(("scale", "unit"), [(3.0, None), (30.0, "nm"), (2.0, "voxel")])
def test_scale_and_unit_shape_the_distance(source, ids, scale, unit):
    """Scale and unit are those of the distance targets; the mask is what it was."""
    target = TARGETS["tanh-distance"]
    nm = target.scale_nm(VOXEL_SIZE, scale, unit)
    everything = target.compute(ids, VOXEL_SIZE, nm, zero_is_cleft=False)
    found = batches(source, targets=("mask", "tanh-distance"), scale=scale, unit=unit)[3]
    for corner, distance in zip(corners_of(found), found["tanh-distance"].numpy(), strict=True):
        roi = Roi(tuple(int(c) for c in corner), PATCH)
        expected = everything[roi.within(whole(SHAPE))]
        assert np.array_equal(distance, expected, equal_nan=True)
    assert torch.equal(found["mask"], batches(source)[3]["mask"])


def test_mask_moves_with_raw(folder):
    """With flips and turns the mask, read off the raw, still fits it."""
    raw = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    image = store(folder / "moves.zarr/raw", raw)
    mask = store(folder / "moves.zarr/mask", (raw > 127).astype(np.uint8))
    both = open_source(image, mask, None, PATCH)
    chosen = batches(both, targets=("mask", "tanh-distance"), augment={"flip": 0.5, "rotate": 0.5})
    for index in range(10):
        batch = chosen[index]
        assert torch.equal(batch["raw"][:, 0] > 0, batch["mask"] == 1)
        assert torch.equal(batch["tanh-distance"] > 0, batch["mask"] == 1)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_lost_sections_are_grey(folder, clefts, level):
    """A section without contrast is 0, as in prediction."""
    raw = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    raw[::2] = level
    lost = open_source(store(folder / f"l{level}.zarr/raw", raw), clefts, None, PATCH)
    batch = batches(lost, batch_size=4)[0]["raw"][:, 0]
    grey = (batch == 0).all(dim=3).all(dim=2)
    assert torch.equal(grey.sum(dim=1), torch.full((4,), 2))


def test_a_section_blanked_by_augmentation_is_grey(source):
    """A section that the augmentation takes away looks to the network like a lost one."""
    batch = batches(source, augment={"missing_section": 1.0})[0]
    assert (batch["raw"] == 0).all()


@pytest.mark.parametrize(("suffix", "zero_is_cleft"), [("zarr", False), ("hdf", True)])
def test_id_zero(folder, suffix, zero_is_cleft):
    """Id 0 is a cleft in CREMI's HDF5 files and background elsewhere."""
    ids = np.full(PATCH, BACKGROUND, np.uint64)
    ids[1:3, 4:8, 4:8], ids[1:3, 10:12, 4:8] = 0, 3
    raw = np.random.default_rng(0).integers(0, 256, PATCH, dtype=np.uint8)
    path = folder / f"zero.{suffix}"
    if suffix == "zarr":
        store(path / "raw", raw)
        store(path / "ids", ids)
    else:
        with h5py.File(path, "w") as file:
            for name, data in (("raw", raw), ("ids", ids)):
                file.create_dataset(name, data=data).attrs["resolution"] = VOXEL_SIZE
    batch = batches(open_source(f"{path}/raw", f"{path}/ids", None, PATCH), batch_size=1)[0]
    expected = ids < 4 if zero_is_cleft else ids == 3
    assert np.array_equal(batch["mask"][0].numpy() == 1, expected)


def test_containers_are_addresses(folder, ids):
    """A container that holds volumes/raw and volumes/labels/clefts is both addresses."""
    path = folder / "cremi.zarr"
    store(path / "volumes/raw", np.arange(VOXELS, dtype=np.int64).reshape(SHAPE).astype(np.uint8))
    store(path / "volumes/labels/clefts", ids)
    found = open_source(str(path), str(path), None, PATCH)
    assert found.volumes()[0].dtype == np.uint8
    assert found.volumes()[1].dtype == np.uint64


def test_voxel_size_is_that_of_the_config_then_of_the_store(places, clefts):
    """A stated voxel size wins; the store's is used otherwise."""
    assert open_source(places, clefts, None, PATCH).voxel_size == VOXEL_SIZE
    assert open_source(places, clefts, None, PATCH, Reading((50, 4, 4))).voxel_size == (50, 4, 4)


def test_shapes_must_agree(places, folder):
    """Raw and ids of different shapes are an input error that names both."""
    short = store(folder / "short.zarr/ids", np.zeros((12, 40, 43), np.uint64))
    with pytest.raises(InputError, match=r"\(12, 40, 44\).*\(12, 40, 43\)"):
        open_source(places, short, None, PATCH)


def test_voxel_sizes_must_agree(places, folder):
    """Different voxel sizes are an input error, unless the config says which is meant."""
    other = store(folder / "other.zarr/ids", np.zeros(SHAPE, np.uint64), voxel_size=(40, 4, 4))
    with pytest.raises(InputError, match="voxel size"):
        open_source(places, other, None, PATCH)
    assert open_source(places, other, None, PATCH, Reading((40, 4, 4))).voxel_size == (40, 4, 4)


def test_no_voxel_size_is_an_input_error(folder):
    """Without any voxel size no distance is guessed."""
    raw = store(folder / "bare.zarr/raw", np.zeros(SHAPE, np.uint8), voxel_size=None)
    ids = store(folder / "bare.zarr/ids", np.zeros(SHAPE, np.uint64), voxel_size=None)
    with pytest.raises(InputError, match="voxel size"):
        open_source(raw, ids, None, PATCH)
    assert open_source(raw, ids, None, PATCH, Reading(VOXEL_SIZE)).voxel_size == VOXEL_SIZE


@pytest.mark.parametrize("roi", ["0:3,0:40,0:44", "0:12,0:15,0:44", "0:12,0:40,30:44"])
def test_a_region_smaller_than_a_patch_is_refused(places, clefts, roi):
    """A region that holds no patch is an input error that names it and the patch."""
    with pytest.raises(InputError, match=r"smaller than a patch.*\(4, 16, 16\)"):
        open_source(places, clefts, roi, PATCH)
    assert open_source(places, clefts, "0:4,0:16,0:16", PATCH).roi.shape == PATCH


@pytest.mark.parametrize("roi", ["0:13,0:40,0:44", "5:5,0:40,0:44", "0:12", "all"])
def test_a_region_that_is_none_is_refused(places, clefts, roi):
    """A region that leaves the volume, is empty or no box is a usage error."""
    with pytest.raises(UsageError):
        open_source(places, clefts, roi, PATCH)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_ids_are_unsigned(places, folder, dtype):
    """Floats and signed integers as ids are an input error that names the dtype."""
    wrong = store(folder / f"{np.dtype(dtype)}.zarr/ids", np.zeros(SHAPE, dtype))
    with pytest.raises(InputError, match=np.dtype(dtype).name):
        open_source(places, wrong, None, PATCH)


def test_raw_of_unknown_range_is_refused(folder, clefts):
    """uint16 raw whose black and white nobody states is refused before training starts."""
    dim = store(folder / "dim.zarr/raw", np.zeros(SHAPE, np.uint16))
    with pytest.raises(InputError, match="intensit"):
        open_source(dim, clefts, None, PATCH)


def test_a_missing_volume_is_an_input_error(folder, clefts):
    """A raw volume that is not there is an input error that names it."""
    with pytest.raises(InputError, match=r"nothing\.zarr"):
        open_source(str(folder / "nothing.zarr"), clefts, None, PATCH)


def test_an_unknown_augmentation_is_a_usage_error(source):
    """An unknown augmentation is refused before any batch; the message names those there are."""
    with pytest.raises(UsageError, match=r"augment\.filp.*flip"):
        batches(source, augment={"filp": 0.5})


def test_lengths_are_in_the_voxels_of_the_source(places, clefts):
    """A displacement in nm is twice as many voxels where voxels are half as large."""
    augment = {"shift": {"probability": 1.0, "max_nm": 8}}
    spread = []
    for size in (VOXEL_SIZE, (40, 4, 4)):
        read = open_source(places, clefts, "4:8,12:28,12:28", PATCH, Reading(size))
        corners = np.array([corners_of(batches(read, augment=augment)[i]) for i in range(10)])
        spread.append(np.abs(corners[..., 1:] - 12).max())
    assert spread == [1, 2]
