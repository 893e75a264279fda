"""The regions of a training run: apart, weighted, annotated in part, looked at beforehand."""

import numpy as np
import pytest
import torch
from PIL import Image

from cleftcli.errors import InputError
from cleftcli.geometry import Roi
from cleftcli.labels import BACKGROUND, IGNORE, cleft_mask, ignore_mask
from cleftcli.sampling import open_source
from cleftcli.volumes import Space, create_volume
from tests.conftest import VOXEL_SIZE, store
from tests.test_train import ok, written


@pytest.fixture
def config(tmp_path, volume):
    """A config with held-out and test columns, beside the small volume."""
    return written(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":,:,32:48", ":,:,31:48", "data.validate"),
        (":,:,48:", ":,:,47:", "data.test"),
        (":,:,48:", ":,:,16:24", "data.test"),
        ("[network]", "[augment]\nshift = { probability = 0.1, max_nm = 16 }\n[network]", "by (0,"),
    ],
)
def test_what_is_reported_is_never_used_before(cleft, tmp_path, config, old, new, message):
    """Training, validation and test regions may not overlap, nor augmentation reach into them."""
    config.write_text(config.read_text().replace(old, new))
    done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.stderr
    assert "overlaps" in done.stderr
    assert not (tmp_path / "run").exists()


def region(weight=None, roi=":,:,0:32"):
    stated = "" if weight is None else f", weight = {weight}"
    return (
        '{ raw = "volume.zarr/volumes/raw", clefts = "volume.zarr/volumes/labels/clefts", '
        f'roi = "{roi}"{stated} }}'
    )


def test_weights_are_given_to_all_regions_or_to_none(cleft, tmp_path, config):
    """One region's weight without the other's is a usage error."""
    written(config, train=f"train = [{region(2.0)}, {region()}]")
    done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "weight" in done.stderr


def test_weights_decide_where_patches_are_from(tmp_path, volume):
    """Regions are drawn by their weights, and by how many patches fit where none is given."""
    from cleftcli.config import load as load_config
    from cleftcli.replicas import Replica
    from cleftcli.training import resolved
    from cleftcli.training_data import batches_of, open_data

    shares = {}
    for weights in ((None, None), (3.0, 1.0)):
        regions = [region(w, roi) for w, roi in zip(weights, (":,:,0:16", ":,:,8:32"), strict=True)]
        path = written(tmp_path / "w.toml", train=f"train = [{', '.join(regions)}]")
        config = resolved(load_config(path))
        batches = batches_of(config, open_data(config, tmp_path).train, Replica())
        random = np.random.default_rng(0)
        drawn = [batches.draw(random)[0].roi.shape[2] == 16 for _ in range(400)]
        shares[weights] = np.mean(drawn)
    assert shares[None, None] == pytest.approx(1 / 10, abs=0.05)
    assert shares[3.0, 1.0] == pytest.approx(3 / 4, abs=0.07)


def test_a_batch_is_shared_without_rest(tmp_path, volume):
    """The processes' patches together are the batch; a batch that cannot be shared is refused."""
    from cleftcli.config import load as load_config
    from cleftcli.errors import UsageError
    from cleftcli.replicas import Replica
    from cleftcli.training import resolved
    from cleftcli.training_data import batches_of, open_data

    config = resolved(load_config(written(tmp_path / "c.toml")))
    sources = open_data(config, tmp_path).train
    whole = batches_of(config, sources, Replica())[5]["raw"]
    parts = [batches_of(config, sources, Replica(rank, 2))[5]["raw"] for rank in range(2)]
    assert torch.equal(whole, torch.cat(parts))
    with pytest.raises(UsageError, match="shared by 3"):
        batches_of(config, sources, Replica(0, 3))


def test_check_looks_before_anything_starts(cleft, tmp_path, config):
    """Counts, doubts, two steps and a picture; no run folder."""
    picture = tmp_path / "check.png"
    found = ok(cleft("train", config, "-o", picture, "--check", "--json"))
    assert [r["for"] for r in found["regions"]] == ["train", "validate", "test"]
    assert found["regions"][0]["ids"] >= 1
    assert found["regions"][0]["cleft_percent"] > 0
    assert len(found["loss"]) == 2
    assert found["hours"] == pytest.approx(found["seconds_a_step"] * 6 / 3600)
    assert [r["doubts"] for r in found["regions"][:1]] == [[]]
    with Image.open(picture) as image:
        assert image.width >= 2 * 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["check.png", "config.toml", "volume.zarr"]


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda ids: np.where(ids == BACKGROUND, np.uint64(1), np.uint64(BACKGROUND)), "swapped"),
        (lambda ids: ids[:, ::-1].copy(), "aligned"),
    ],
)
def test_check_doubts_labels_that_do_not_fit(cleft, tmp_path, config, grown, change, doubt):
    """Labels swapped or displaced are doubted in words."""
    store(f"{tmp_path}/other.zarr/clefts", change(grown.clefts))
    text = config.read_text().replace("volume.zarr/volumes/labels/clefts", "other.zarr/clefts", 1)
    config.write_text(text)
    found = ok(cleft("train", config, "-o", tmp_path / "check.png", "--check", "--json"))
    assert any(doubt in text for text in found["regions"][0]["doubts"])


def test_nothing_to_learn_from_is_refused(cleft, tmp_path, config, grown):
    """Training regions without any cleft are an input error, before anything is written."""
    store(f"{tmp_path}/none.zarr/clefts", np.full_like(grown.clefts, BACKGROUND))
    text = config.read_text().replace("volume.zarr/volumes/labels/clefts", "none.zarr/clefts", 1)
    config.write_text(text)
    done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "data.train: there is no cleft" in done.stderr
    assert not (tmp_path / "run").exists()


def part_of(path, ids, offset):
    """Ids that annotate a part of raw, as CREMI's padded files hold them."""
    nm = tuple(o * v for o, v in zip(offset, VOXEL_SIZE, strict=True))
    volume = create_volume(
        f"{path}/clefts",
        shape=ids.shape,
        dtype=ids.dtype,
        chunks=ids.shape,
        space=Space(VOXEL_SIZE, nm),
    )
    volume.write(volume.roi, ids)


@pytest.mark.parametrize("kind", ["ids", "mask"])
def test_ids_of_a_part_lie_where_their_offset_says(tmp_path, volume, grown, kind):
    """Patches are from the annotated part; what lies around it is raw, and unknown."""
    offset, shape = (2, 9, 5), (6, 30, 50)
    inside = np.s_[2:8, 9:39, 5:55]
    ids = grown.clefts[inside].copy()
    part_of(
        tmp_path / "part.zarr", ids if kind == "ids" else (ids != BACKGROUND).view("u1"), offset
    )
    source = open_source(f"{volume}/volumes/raw", f"{tmp_path}/part.zarr/clefts", None, (4, 16, 16))
    image, found = source.volumes()
    assert source.roi == Roi(offset, shape)
    assert found.shape == image.shape == grown.raw.shape
    assert found.space.offset == image.space.offset
    everything = found.read(found.roi)
    unknown = np.ones(grown.raw.shape, bool)
    unknown[inside] = False
    np.testing.assert_array_equal(ignore_mask(everything), unknown)
    np.testing.assert_array_equal(cleft_mask(everything)[inside], ids != BACKGROUND)
    for roi in (Roi((0, 0, 0), (4, 16, 16)), Roi((3, 20, 40), (6, 20, 20))):
        box = roi.within(found.roi)
        np.testing.assert_array_equal(found.read(roi), everything[box])


@pytest.mark.parametrize("offset", [(0, 0, 0), (2, 0, 0), (-3, 5, 0), (0, -7, 9)])
def test_offsets_pair_ids_with_raw_whatever_the_shapes(tmp_path, volume, grown, offset):
    """Ids as large as raw that lie elsewhere annotate what they share with it, voxel for voxel."""
    part_of(tmp_path / "same.zarr", grown.clefts, offset)
    source = open_source(f"{volume}/volumes/raw", f"{tmp_path}/same.zarr/clefts", None, (4, 16, 16))
    ids = source.volumes()[1]
    found = ids.read(ids.roi)
    expected = np.full(grown.clefts.shape, IGNORE, np.uint64)
    for at in np.ndindex(grown.clefts.shape):
        there = tuple(a + o for a, o in zip(at, offset, strict=True))
        if all(0 <= n < m for n, m in zip(there, expected.shape, strict=True)):
            expected[there] = grown.clefts[at]
    np.testing.assert_array_equal(found, expected)
    assert source.roi.size == (expected != IGNORE).sum()


@pytest.mark.parametrize(
    ("offset", "dtype", "message"),
    [
        ((0, 0, 0), np.uint64, "offsets do not say"),
        ((0.5, 0, 0), np.uint64, "offsets do not say"),
        ((20, 0, 0), np.uint64, "no voxel in common"),
        ((1, 1, 1), np.uint16, "uint64, or a uint8 mask"),
    ],
)
def test_a_part_that_lies_nowhere_is_refused(tmp_path, volume, offset, dtype, message):
    """Without an offset, off the voxels, outside of raw, or with ids that cannot be unknown."""
    part_of(tmp_path / "part.zarr", np.ones((6, 30, 50), dtype), offset)
    with pytest.raises(InputError, match=message):
        open_source(f"{volume}/volumes/raw", f"{tmp_path}/part.zarr/clefts", None, (4, 16, 16))


def test_a_run_on_an_annotated_part(cleft, tmp_path, volume, grown, config):
    """Training, validation and test go through with ids that are smaller than raw."""
    part_of(tmp_path / "part.zarr", grown.clefts[:8, 4:].copy(), (0, 4, 0))
    text = config.read_text().replace("volume.zarr/volumes/labels/clefts", "part.zarr/clefts")
    config.write_text(text.replace('":,:,', '":8,4:,'))
    found = ok(cleft("train", config, "-o", tmp_path / "run", "--json"))
    assert found["held_out"]["mean"]["auc"] is not None


def test_training_and_scoring_read_a_mask_alike(cleft, tmp_path, volume, grown, config):
    """In a uint8 mask 255 is unknown to both; one of 0 and 255 alone has no cleft."""
    ids = grown.clefts != BACKGROUND
    cases = {"ones": ids * 1, "levels": ids * 255, "both": ids * 1}
    cases["both"][:, :5] = 255
    for name, mask in cases.items():
        store(f"{tmp_path}/{name}.zarr/clefts", mask.astype(np.uint8))
        text = config.read_text().replace(
            "volume.zarr/volumes/labels/clefts", f"{name}.zarr/clefts"
        )
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        done = cleft("train", path, "-o", tmp_path / "c.png", "--check", "--json")
        assert (done.exit_code == 3) == (name == "levels"), done.stderr
    row = ok(done)["regions"][0]
    assert row["unknown_percent"] == pytest.approx(100 * 5 / 48)
    assert row["cleft_percent"] == pytest.approx(100 * ids[:, 5:, :32].sum() / (10 * 48 * 32))


def test_a_prediction_is_no_annotation(cleft, tmp_path, volume, config):
    """A probability that cleft wrote is refused as clefts to learn from."""
    store(f"{tmp_path}/p.zarr/cleft", np.full((10, 48, 64), 9, np.uint8), content="probability")
    config.write_text(
        config.read_text().replace("volume.zarr/volumes/labels/clefts", "p.zarr/cleft", 1)
    )
    done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "holds probability" in done.stderr


def test_another_name_of_the_same_volume_overlaps_too(cleft, tmp_path, volume, config):
    """Overlap is seen through defaults, links and detours in an address."""
    (tmp_path / "link.zarr").symlink_to(volume)
    for other in ("volume.zarr", "../" + tmp_path.name + "/volume.zarr/volumes/raw", "link.zarr"):
        text = config.read_text().replace(":,:,32:48", ":,:,16:48")
        head, tail = text.split("validate", 1)
        path = tmp_path / "other.toml"
        path.write_text(head + "validate" + tail.replace("volume.zarr/volumes/raw", other, 1))
        done = cleft("train", path, "-o", tmp_path / "run")
        assert done.exit_code == 2, other
        assert "overlaps" in done.stderr


def test_missing_chunks_of_raw_alone_are_seen(cleft, tmp_path, volume):
    """Raw without clefts is scanned as any input is."""
    next((volume / "volumes/raw").rglob("[0-9]*/[0-9]*/[0-9]*")).unlink()
    path = tmp_path / "mae.toml"
    path.write_text(
        '[data]\nmissing = "error"\ntrain = [{ raw = "volume.zarr/volumes/raw" }]\n'
        '[network]\nname = "mae"\ninput_shape = [4, 16, 16]\n'
        "options = { patch = [1, 8, 8], width = 12, depth = 1, heads = 2, decoder_width = 12, "
        'decoder_depth = 1, decoder_heads = 2 }\n[objective]\nname = "reconstruction"\n'
    )
    done = cleft("train", path, "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "missing" in done.stderr


def test_voxels_of_one_size_are_trained_on(cleft, tmp_path, volume, config):
    """Regions whose voxels are unlike are refused, with both sizes."""
    text = config.read_text().replace(':,:,0:32" }', ':,:,0:32", voxel_size = [40, 32, 32] }')
    config.write_text(text)
    done = cleft("train", config, "-o", tmp_path / "run")
    assert done.exit_code == 3
    assert "(40.0, 8.0, 8.0)" in done.stderr
    assert "(40.0, 32.0, 32.0)" in done.stderr
