"""What README.md and docs/tutorial.md tell a reader to type works, line after line.

The files that they name are made small: sections as large as the text says, but with tissue in a
few corners only, since what has no contrast is never computed; and two small steps of training.
Lines of make and pip are not run: they belong to a clone, and ask for a package index.
"""

import re
import shlex
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from cleftcli.labels import BACKGROUND
from cleftcli.synthetic import tissue
from cleftcli.volumes import Space, create_volume

ROOT = Path(__file__).parents[1]
NOT_RUN = ("make", "pip")
SHAPE = (20, 752, 1024)
VOXEL_SIZE = (50.0, 4.6, 4.6)
SMALL = {
    "steps = .*": "steps = 2\nworkers = 0",
    "batch_size = .*": "batch_size = 1",
    "preset = .*": 'preset = "lite"\ninput_shape = [8, 64, 64]',
}
CORNERS = ((0, 0), (688, 0), (688, 608))  # y, x: trained on, chosen on, reported


def shell_lines(page):
    """The words of each shell line of a page, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    words = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    return [w for w in words if w and w[0] not in NOT_RUN]


def write_cremi(path, **volumes):
    """An HDF5 file as the challenge has them."""
    with h5py.File(path, "w") as file:
        for name, data in volumes.items():
            dataset = file.create_dataset(f"volumes/{name}", data=data, compression="gzip")
            dataset.attrs["resolution"] = VOXEL_SIZE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with every file that the pages take for granted."""
    monkeypatch.chdir(tmp_path)
    raw, clefts = np.full(SHAPE, 128, np.uint8), np.full(SHAPE, BACKGROUND, np.uint64)
    clefts[:, 30:512:60] = 1  # so that no patch is drawn again for want of clefts
    grown = tissue((8, 64, 64), VOXEL_SIZE, seed=1)  # the default checkpoint finds clefts in it
    for y, x in CORNERS:
        here = np.s_[:8, y : y + 64, x : x + 64]
        raw[here], clefts[here] = grown.raw, grown.clefts
    write_cremi(tmp_path / "vnc_train.hdf", **{"raw": raw, "labels/clefts": clefts})
    write_cremi(tmp_path / "truth.hdf", **{"labels/clefts": grown.clefts})
    volume = create_volume(
        "volume.zarr/volumes/raw",
        shape=grown.raw.shape,
        dtype=grown.raw.dtype,
        chunks=(8, 32, 32),
        space=Space(VOXEL_SIZE),
    )
    volume.write(volume.roi, grown.raw)
    Path("sections").mkdir()
    for z, section in enumerate(grown.raw):
        tifffile.imwrite(f"sections/{z:03}.tif", section)
    config = (ROOT / "docs" / "configs" / "default.toml").read_text(encoding="utf-8")
    for line, small in SMALL.items():
        config, found = re.subn(f"(?m)^{line}$", small, config)
        assert found == 1, line
    Path("docs", "configs").mkdir(parents=True)
    for path in (Path("config.toml"), Path("docs", "configs", "default.toml")):
        path.write_text(config, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_line_works(page, folder, cleft):
    """In a folder with the files that it names, each line of a page ends with exit code 0."""
    for words in shell_lines(ROOT / page):
        if words[0] == "cleft":
            done = cleft(*words[1:])
            assert done.exit_code == 0, (words, done.stderr, done.exception)
        else:
            subprocess.run(words, check=True)
