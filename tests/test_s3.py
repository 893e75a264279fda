"""Volumes on S3: listed and counted there, signed with the key that AWS's tools would take."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cleftcli.errors import InputError
from cleftcli.volumes import list_volumes, open_volume, scan, stores
from tests.remote import (
    DATA,
    KEY,
    PLACES,
    alone,  # noqa: F401
    chunk,
    folder,  # noqa: F401
    read,
    written,  # noqa: F401
)
from tests.servers import Bucket, Fault, serve

pytestmark = pytest.mark.usefixtures("alone")
LISTING = "^/data/$"
KEYS = "aws_access_key_id = me\naws_secret_access_key = secret\n"
# where a key is: variables, and files below the home folder
GIVEN = {
    "variables": ({"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}, {}),
    "credentials": ({}, {".aws/credentials": f"[default]\n{KEYS}"}),
    "config": ({}, {".aws/config": f"[default]\nregion = us-east-1\n{KEYS}"}),
    "profile": ({"AWS_PROFILE": "lab"}, {".aws/credentials": f"[lab]\n{KEYS}"}),
    "profile in config": ({"AWS_PROFILE": "lab"}, {".aws/config": f"[profile lab]\n{KEYS}"}),
    "a named file": ({"AWS_SHARED_CREDENTIALS_FILE": "~/key"}, {"key": f"[default]\n{KEYS}"}),
}
NOT_GIVEN = {
    "nothing": ({}, {}),
    "a region": ({}, {".aws/config": "[default]\nregion = us-east-1\n"}),
    "no instance": ({"AWS_EC2_METADATA_DISABLED": "true"}, {}),
    "another profile": ({}, {".aws/credentials": f"[lab]\n{KEYS}"}),
    "no such file": ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/no"}, {}),
}


@pytest.fixture
def s3(folder, monkeypatch):  # noqa: F811
    """The volumes in the bucket `data`."""
    with serve(folder, Bucket) as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        yield served


@pytest.fixture
def give(tmp_path, monkeypatch):
    """Set variables and write files of AWS."""

    def set_and_write(variables, files):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    return set_and_write


@pytest.mark.parametrize("format", PLACES)
def test_s3_is_read_and_counted(format, s3):
    """Voxels are those on disk; a listing tells which chunk is missing, and none is asked for."""
    container, dataset, _, key = PLACES[format]
    assert list_volumes(f"s3://data/{container}") == [f"s3://data/{container}/{dataset}"]
    volume = open_volume(f"s3://data/{container}")
    np.testing.assert_array_equal(read(volume), DATA)
    (s3.folder / "data" / container / dataset / key).unlink()
    s3.asked.clear()

    seen = volume.scan()

    assert (seen.chunks, seen.missing, seen.first_missing) == (8, 1, (key,))
    assert not s3.times(chunk(format))


def test_a_zip_file_on_s3_is_read(s3):
    """A zipped zarr is read in place, from the endpoint that the variables name."""
    root = s3.folder / "data" / "a.zarr"
    with zipfile.ZipFile(s3.folder / "data" / "a.zarr.zip", "w") as packed:
        for file in root.rglob("*"):
            packed.write(file, file.relative_to(root))

    np.testing.assert_array_equal(read(open_volume("s3://data/a.zarr.zip/raw")), DATA)


def test_many_chunks_are_not_listed(s3, monkeypatch):
    """A server is not made to list an array of too many chunks; those of a box are asked for."""
    monkeypatch.setattr(scan, "MOST_LISTED", 7)
    (s3.folder / "data/a.zarr/raw" / KEY).unlink()

    assert open_volume("s3://data/a.zarr/raw").scan().missing == 1
    assert not s3.times(LISTING)


def test_chunks_that_may_not_be_listed_are_asked_for(s3):
    """Where the bucket's owner allows reading alone, chunks are asked for one by one."""
    s3.faults = [Fault(403, LISTING)]
    (s3.folder / "data/a.zarr/raw" / KEY).unlink()

    assert open_volume("s3://data/a.zarr/raw").scan().missing == 1


def test_a_listing_that_fails_is_said(s3):
    """A server that fails to list is no server that cannot."""
    volume = open_volume("s3://data/a.zarr/raw")
    s3.faults = [Fault(503, LISTING)]

    with pytest.raises(InputError, match=r"cannot be listed.*503"):
        volume.scan()


def test_a_bucket_that_is_not_there(s3):
    """An input error that names it."""
    with pytest.raises(InputError, match="s3://nowhere/a"):
        open_volume("s3://nowhere/a.zarr/raw")


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_key_signs(given, give, s3):
    """Keys are found where AWS's tools find them; every request is signed."""
    give(*given)
    s3.keys = {"me": "secret"}

    np.testing.assert_array_equal(read(open_volume("s3://data/a.zarr/raw")), DATA)

    assert {who for _, _, who in s3.asked} == {"me"}


def test_a_wrong_key_is_refused(give, s3):
    """Refused is not missing: the message tells."""
    give({"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "guess"}, {})
    s3.keys = {"me": "secret"}

    with pytest.raises(InputError, match=r"AccessDenied.*403"):
        open_volume("s3://data/a.zarr/raw")


def test_a_file_of_keys_that_is_none(give, s3):
    """A malformed file is named, not passed over."""
    give({}, {".aws/credentials": "key: secret"})

    with pytest.raises(InputError, match=r"credentials: unreadable"):
        open_volume("s3://data/a.zarr/raw")


@pytest.mark.parametrize(
    "variables", [{"AWS_EC2_METADATA_DISABLED": "false"}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}]
)
def test_roles_are_left_to_tensorstore(variables, give):
    """A role of the machine is asked for where the machine says that it has one."""
    give(variables, {})

    assert stores.spec("s3://data/a")["aws_credentials"]["type"] == "default"


@pytest.mark.parametrize("cases", [NOT_GIVEN, GIVEN], ids=["nobody", "somebody"])
def test_stderr_is_ours(cases, s3, tmp_path):
    """No library says there what it could not find; without a key nothing is signed."""
    s3.keys = {"me": "secret"} if cases is GIVEN else {}
    code = """if True:
        import json, os, pathlib, sys
        from cleftcli.volumes import stores
        before = dict(os.environ)
        for name, (variables, files) in json.loads(sys.argv[1]).items():
            home = pathlib.Path(sys.argv[2], name.replace(" ", "_"))
            os.environ.clear()
            os.environ.update({**before, **variables, "HOME": str(home)})
            for file, text in files.items():
                (home / file).parent.mkdir(parents=True)
                (home / file).write_text(text)
            stores.store.cache_clear()
            assert stores.read("s3://data/a.zarr", "raw/.zarray"), name
            print(name)
        """

    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(cases), str(tmp_path / "homes")],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(cases)
    assert {who for _, _, who in s3.asked} == ({"me"} if cases is GIVEN else {""})
