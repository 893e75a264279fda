"""Viewers get the voxels they ask for, at their place, from this machine only."""

import importlib
import io
import itertools
import json
import socket
import sys
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest

from cleftcli.blockwise import HERE
from cleftcli.errors import InputError, ResourceError, UsageError
from cleftcli.geometry import Roi
from cleftcli.pyramid import make_pyramid
from cleftcli.viewers import Layer, Voxels
from cleftcli.viewers.napari import add, napari_command
from cleftcli.volumes import Reading, Space, Volume, create_volume, open_volume
from tests.conftest import VOXEL_SIZE, store

SHAPE = (10, 48, 64)


@pytest.fixture
def layers(tmp_path, grown):
    """Raw, a probability of the right half of it in finer voxels, and CREMI ids."""
    raw = store(f"{tmp_path}/in.zarr/raw", grown.raw)
    finer = create_volume(
        f"{tmp_path}/out.zarr/cleft",
        shape=(10, 48, 64),
        dtype=np.float32,
        chunks=(5, 16, 16),
        space=Space((40.0, 8.0, 4.0), (0.0, 0.0, 254.0)),
    )
    finer.write(finer.roi, np.random.default_rng(0).random(finer.shape, np.float32))
    ids = grown.clefts.copy()  # background is 2^64-1
    ids[0, 0, :3] = 2**64 - 2
    clefts = store(f"{tmp_path}/in.zarr/clefts", ids)
    return [
        Layer("raw", raw.address, "raw"),
        Layer("prediction", finer.address, "probability", threshold=0.85),
        Layer("clefts", clefts.address, "clefts"),
    ]


def get(url):
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def ask(link, key, start, end, scale=(1, 1, 1)):
    """A box of voxels as neuroglancer's page asks for them."""
    numbers = "/".join(",".join(map(str, corner)) for corner in (scale, start, end))
    body = get(f"{link.partition('/v/')[0]}/neuroglancer/npz/{key}/{numbers}")
    return np.load(io.BytesIO(zlib.decompress(body)))


def served(layers, **options):
    """As the module of neuroglancer, where that is installed."""
    pytest.importorskip("neuroglancer")
    from cleftcli.viewers import neuroglancer

    return neuroglancer.served(layers, **options)


def state_of(link):
    """What the page at a link is told to show."""
    import neuroglancer

    viewers = neuroglancer.server.global_server.viewers
    return viewers[link.rstrip("/").rpartition("/")[2]].state.to_json()


@pytest.fixture
def shown(layers):
    """Layers that are served: the link, the state, and the key of each layer's voxels."""
    with served(layers) as link:
        state = state_of(link)
        urls = {layer["name"]: layer["source"][0]["url"] for layer in state["layers"]}
        yield link, state, {name: url.rpartition("/")[2] for name, url in urls.items()}


# ---- voxels


@pytest.mark.parametrize(
    "index",
    [
        np.s_[2:5, 3:20, 60:],
        np.s_[7],
        np.s_[-1, :, 5],
        np.s_[3, 4, 5],
        np.s_[:, np.int64(2)],
        np.s_[5:5],
        np.s_[-4:-1, 40:400],
    ],
)
def test_indexing_is_that_of_numpy(layers, grown, index):
    """Whole numbers drop an axis, slices keep it, ends beyond the volume are cut."""
    found = Voxels(layers[0])[index]
    assert np.array_equal(found, grown.raw[index])
    assert found.shape == grown.raw[index].shape


def test_only_what_is_indexed_is_read(layers, monkeypatch):
    """Nothing is read to tell shape and dtype; a section is a section."""
    asked = []
    read = Volume.read
    monkeypatch.setattr(Volume, "read", lambda v, roi: asked.append(roi) or read(v, roi))
    voxels = Voxels(layers[1])
    assert (voxels.shape, voxels.dtype, voxels.ndim) == (SHAPE, np.float32, 3)
    voxels[4, 8:16]
    assert asked == [Roi((4, 8, 0), (1, 8, 64))]


def test_what_cannot_be_indexed_is_refused(layers):
    """As by numpy, and steps too."""
    for index in (10, (0, 48), np.s_[::2]):
        with pytest.raises(IndexError):
            Voxels(layers[0])[index]


def test_ids_are_0_where_there_is_no_cleft(layers, grown):
    """Whatever the store writes for background and for what nobody knows."""
    expected = np.where(grown.clefts == 2**64 - 1, 0, grown.clefts)
    expected[0, 0, :3] = 0
    assert expected.any()
    found = Voxels(layers[2])[:]
    assert found.dtype == Voxels(layers[2]).dtype == np.uint64
    assert np.array_equal(found, expected)


def test_a_mask_of_bool_is_shown_as_bytes(tmp_path, grown):
    """Viewers know no bool."""
    address = store(f"{tmp_path}/m.zarr/mask", grown.clefts < 9).address
    voxels = Voxels(Layer("mask", address, "raw"))
    assert voxels.dtype == voxels[0].dtype == np.uint8
    assert np.array_equal(voxels[:], grown.clefts < 9)


# ---- neuroglancer


def test_chunks_are_the_volumes_voxels(shown, layers):
    """Over HTTP, in any box; means are of the voxels they cover."""
    link, _, keys = shown
    for layer, corner in itertools.product(layers, [(0, 0, 0), (4, 30, 50)]):
        end = (corner[0] + 3, corner[1] + 16, corner[2] + 14)
        expected = Voxels(layer)[tuple(map(slice, corner, end))]
        found = ask(link, keys[layer.name], corner, end)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    means = ask(link, keys["prediction"], (0, 0, 0), (1, 4, 4), scale=(1, 2, 2))
    covered = Voxels(layers[1])[:1, :8, :8].reshape(1, 4, 2, 4, 2)
    assert np.allclose(means, covered.mean(axis=(2, 4)))


def test_layers_lie_where_their_volumes_say(shown, layers):
    """nm, by axis name: corners of first and last voxel land where voxel size and offset put them.

    The viewer counts from the corner of a voxel, volumes from its centre.
    """
    _, state, _ = shown
    first = np.array(layers[0].volume.voxel_size)
    for layer, told in zip(layers, state["layers"], strict=True):
        transform = told["source"][0]["transform"]
        assert list(transform["outputDimensions"]) == ["z", "y", "x"]
        metres = np.array([d[0] for d in transform["outputDimensions"].values()])
        matrix = np.array(transform["matrix"])
        for voxel in ([0, 0, 0], [9, 47, 63]):
            centre = (matrix @ [*np.add(voxel, 0.5), 1]) * metres * 1e9
            size, offset = layer.volume.voxel_size, layer.volume.space.offset
            assert np.allclose(centre - first / 2, np.multiply(voxel, size) + offset), layer.name
    assert list(state["dimensions"]) == ["x", "y", "z"]
    assert np.allclose([d[0] * 1e9 for d in state["dimensions"].values()], VOXEL_SIZE[::-1])
    assert np.allclose(state["position"], [32, 24, 5])  # the middle of the clefts


def test_levels_are_used_where_there_are_some(tmp_path):
    """A scale is read from the coarsest level that divides it, and the rest is averaged."""
    data = np.random.default_rng(0).integers(0, 255, (3, 40, 600), np.uint8)
    finest = store(f"{tmp_path}/p.zarr/cleft", data, complete=True, made_by="cleft")
    names = make_pyramid(finest, workers=HERE, overwrite=False, report=lambda *_: None)
    level = open_volume(names[1])
    level.write(level.roi, np.full(level.shape, 77, np.uint8))  # as nothing else would have it
    with served([Layer("p", finest.address, "probability")]) as link:
        key = state_of(link)["layers"][0]["source"][0]["url"].rpartition("/")[2]
        info = json.loads(get(f"{link.partition('/v/')[0]}/neuroglancer/info/{key}"))
        at = (0, 0, 0), (3, 5, 40)
        assert np.array_equal(ask(link, key, *at), data[:3, :5, :40])
        assert np.array_equal(
            ask(link, key, *at, scale=(1, 2, 2)), Voxels(Layer("", names[0], "raw"))[:3, :5, :40]
        )
        assert (ask(link, key, *at, scale=(1, 4, 4)) == 77).all()
        assert (ask(link, key, *at, scale=(1, 8, 8)) == 77).all()
        assert (ask(link, key, (0, 0, 0), (1, 5, 40), scale=(3, 4, 4)) == 77).all()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(link, key, (0, 0, 0), (1, 1, 1), scale=(1, 64, 64))
    assert [open_volume(name).shape[2] for name in names] == [300, 150]
    assert info["maxDownsampling"] == 64 * 16


def test_each_kind_has_its_looks(shown):
    """Raw in grey over its range, probability with its threshold, ids as a segmentation."""
    _, state, _ = shown
    raw, prediction, clefts = state["layers"]
    assert [layer["type"] for layer in state["layers"]] == ["image", "image", "segmentation"]
    assert "range=[0, 255]" in raw["shader"]
    assert "range=[0, 1]" in prediction["shader"]
    assert "default=0.85" in prediction["shader"]
    assert "{{" not in raw["shader"] + prediction["shader"]
    assert "shader" not in clefts


def test_only_this_machine_is_answered(shown):
    """It listens on 127.0.0.1, not on this machine's other addresses; the path is a secret."""
    link, _, keys = shown
    host, _, port = link.removeprefix("http://").partition("/")[0].partition(":")
    assert host == "127.0.0.1"
    for other in ("127.0.0.2", *socket.gethostbyname_ex(socket.gethostname())[2]):
        if other != host:
            with pytest.raises(OSError, match=r"refused|timed out"):
                socket.create_connection((other, int(port)), timeout=1).close()
    assert b"neuroglancer" in get(link)
    for wrong in (
        "/v/0/",
        "/",
        "/neuroglancer/info/0.0",
        f"/neuroglancer/info/{keys['raw']}/../..",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"http://{host}:{port}{wrong}")


def test_credentials_are_not_handed_out(shown):
    """A page may not ask for this user's tokens of cloud storage."""
    link, _, _ = shown
    asked = urllib.request.Request(
        link.replace("/v/", "/credentials/").rstrip("/"), json.dumps({"key": "google"}).encode()
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=10)


def test_meshes_are_not_made(shown):
    """They would take a whole volume into memory: the page is told not to ask."""
    _, state, _ = shown
    for layer in state["layers"]:
        assert layer["source"][0]["enableDefaultSubsources"] is False
        assert layer["source"][0]["subsources"] == {"default": True}


def test_the_server_ends_with_its_context(layers):
    """Nobody answers afterwards, and it can be started again, also where it is wanted."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"127.0.0.1:{port}"), served(layers, port=port):
            pass
    with served(layers[:1], port=port) as link:
        assert f":{port}/" in link
    with pytest.raises(urllib.error.URLError):
        get(link)


def test_what_has_no_place_is_refused(tmp_path, grown):
    """A voxel size that is not known is not guessed; stating it helps."""
    volume = create_volume(
        f"{tmp_path}/a.zarr/raw", shape=SHAPE, dtype="u1", chunks=SHAPE, space=Space()
    )
    with pytest.raises(InputError, match="voxel size"), served([Layer("a", volume.address, "raw")]):
        pass
    stated = Layer("a", volume.address, "raw", Reading((40.0, 4.0, 4.0)))
    with served([stated]) as link:
        assert state_of(link)["dimensions"]["x"] == [4e-9, "m"]


def test_without_neuroglancer_the_extra_is_named(monkeypatch):
    """One line that says what to type."""
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    monkeypatch.delitem(sys.modules, "cleftcli.viewers.neuroglancer", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'cleft\[view\]'"):
        importlib.import_module("cleftcli.viewers.neuroglancer")


# ---- napari


class Viewer:
    """What napari is asked for."""

    def __init__(self):
        self.added = []

    def add_image(self, data, **looks):
        self.added.append((data, looks))

    def add_labels(self, data, **looks):
        self.added.append((data, looks))


def test_the_command_of_napari_shows_the_same_layers(layers, monkeypatch):
    """Run as it is printed, it opens every layer with its size and place in nm."""
    viewer = Viewer()
    napari = type(sys)("napari")
    napari.Viewer, napari.run = lambda **_: viewer, lambda: None
    monkeypatch.setitem(sys.modules, "napari", napari)
    python, option, code = napari_command(layers)
    assert (python, option) == (sys.executable, "-c")
    exec(code, {})
    for layer, (data, looks) in zip(layers, viewer.added, strict=True):
        assert np.array_equal(data[3], Voxels(layer)[3])
        assert looks["name"] == layer.name
        assert looks["scale"] == layer.volume.voxel_size
        assert looks["translate"] == layer.volume.space.offset


def test_the_command_of_napari_runs_in_any_folder(layers, monkeypatch, tmp_path):
    """Addresses are absolute, and odd names stay within quotes."""
    odd = tmp_path / 'it\'s "odd".zarr'
    store(f"{odd}/raw", np.zeros((2, 4, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    (_, _, code) = napari_command([Layer("o'dd", f"{odd.name}/raw", "raw")])
    named = {}
    exec(code.replace("show(", "found = list("), named)
    assert [named["found"][0].name, named["found"][0].address] == ["o'dd", f"{odd}/raw"]


@pytest.mark.filterwarnings("ignore")
def test_napari_itself_takes_the_layers(layers):
    """Where it is installed: a viewer without a window holds them, and slices them lazily."""
    pytest.importorskip("napari")
    from napari.components import ViewerModel

    viewer = ViewerModel()
    for layer in layers:
        add(viewer, layer)
    assert [type(made).__name__ for made in viewer.layers] == ["Image", "Image", "Labels"]
    viewer.dims.set_current_step(0, 4)
    assert tuple(viewer.layers["raw"].scale) == VOXEL_SIZE
