"""Key-value stores: a folder, a zip file, HTTP, S3 or Google Cloud, all read in one way.

What a flaky server refuses is asked for again, a few times, and then said; 404 is an answer.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from cleftcli import heap
from cleftcli.errors import InputError

CACHE_BYTES = 64_000_000  # neighbouring blocks share chunks: decoding each once is 7x faster
_RETRIES = {"max_retries": 5, "initial_delay": "200ms", "max_delay": "10s"}  # about 6 s in all
# Of tensorstore, which takes them from the environment at its first request. Without them a server
# that takes a request and never answers is waited for for ever.
_SILENCE = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "30",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30",  # below the limit for so long: asked again
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",  # a second
}
_EVASIVE = "the server says that it did not change, and nobody asked that"  # 304, 412
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED")  # 401 and 403: not asked for again
FAILURES = (ValueError, NotImplementedError)  # what tensorstore makes of other statuses than 404
_ROLES = {"role_arn", "sso_session", "sso_start_url", "credential_process"}
_ROLE_VARIABLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                   "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip


@functools.cache
def context() -> ts.Context:
    """The cache and the patience that all stores of this process share."""
    heap.keep()
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
    retries = {f"{kind}_request_retries": _RETRIES for kind in ("http", "s3", "gcs")}
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, **retries})


def is_remote(address: str) -> bool:
    """Whether an address is a URL rather than a path."""
    return "://" in address


def spec(container: str, path: str = "") -> Any:
    """Tensorstore's description of a container, or of a folder in it."""
    folder = path and path.rstrip("/") + "/"
    if container.endswith(".zip"):
        return {"driver": "zip", "base": _place(container), "path": folder}
    found = _place(container)
    if isinstance(found, str):
        return f"{found}/{folder}"
    found["path"] = f"{found['path']}/{folder}".lstrip("/" if "bucket" in found else "")
    return found


def _place(address: str) -> Any:
    """Tensorstore's description of what is at a path or URL, without a slash behind."""
    if address.startswith("s3://"):
        bucket, _, key = address.removeprefix("s3://").partition("/")
        return {"driver": "s3", "bucket": bucket, "path": key.rstrip("/"), **_s3()}
    if is_remote(address):
        return address.rstrip("/")
    return {"driver": "file", "path": os.path.realpath(address).rstrip("/")}


def _s3() -> dict[str, Any]:
    """Endpoint, region and key as AWS's own tools take them."""
    found: dict[str, Any] = {"aws_credentials": _credentials()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        found |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    return found


def _credentials() -> dict[str, str]:
    """Where the key to S3 comes from; nobody signs where nobody gave one.

    Tensorstore's own search misses keys in files and writes lines to stderr, so it is left to
    roles, which it alone knows.

    Raises:
        InputError: a file of AWS's is none.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {"type": "environment"}
    profile = os.environ.get("AWS_PROFILE", "default")
    in_config = profile if profile == "default" else f"profile {profile}"
    stated: set[str] = set()
    places: dict[str, str] = {}
    for kind, variable, section in (
        ("credentials", "AWS_SHARED_CREDENTIALS_FILE", profile),
        ("config", "AWS_CONFIG_FILE", in_config),
    ):
        path = Path(os.environ.get(variable, f"~/.aws/{kind}")).expanduser()
        places[f"{kind}_file"] = str(path) if path.is_file() else os.devnull
        stated |= _options(places[f"{kind}_file"], section)
    if "aws_access_key_id" in stated:
        return {"type": "profile", "profile": profile, **places}
    instance = os.environ.get("AWS_EC2_METADATA_DISABLED", "true").lower() == "false"
    if instance or stated & _ROLES or any(name in os.environ for name in _ROLE_VARIABLES):
        return {"type": "default", "profile": profile}
    return {"type": "anonymous"}


def _options(path: str, section: str) -> set[str]:
    """The names that a section of an INI file sets."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, ValueError) as error:
        raise InputError(f"{path}: unreadable: {error}") from error
    return set(parser.options(section)) if parser.has_section(section) else set()


@functools.lru_cache(maxsize=64)
def store(container: str) -> ts.KvStore:
    """The container as a key-value store.

    Raises:
        InputError: it cannot be opened; a zip file cut short says so.
    """
    if (
        container.endswith(".zip")
        and not is_remote(container)
        and not zipfile.is_zipfile(container)
    ):
        raise InputError(f"{container}: no zip archive, or one that is truncated")
    try:
        return ts.KvStore.open(spec(container), context=context()).result()
    except FAILURES as error:
        raise InputError(f"{container}: cannot be opened: {words(error)}") from error


def read(container: str, key: str) -> bytes | None:
    """The bytes at a key, None where there are none.

    Raises:
        InputError: the store does not answer, or refuses.
    """
    try:
        found = store(container).read(key).result()
    except FAILURES as error:
        raise InputError(f"{container}/{key}: {words(error)}") from error
    if found.state == "unspecified":
        raise InputError(f"{container}/{key}: {_EVASIVE}")
    return bytes(found.value) if found.state == "value" else None


@dataclass(frozen=True)
class Answer:
    """What a store says of a key: it is there in some version, or not, or there is `trouble`.

    `refused` is trouble that neither time nor another key will end.
    """

    there: bool
    version: bytes = b""
    trouble: str = ""
    refused: bool = False


def ask(container: str, keys: Sequence[str]) -> Iterator[Answer]:
    """Whether a store has keys, in their order; each is asked for its first byte, many at a time.

    Raises:
        InputError: the store cannot be opened.
    """
    answers = [store(container).read(key, byte_range=slice(0, 1)) for key in keys]
    try:
        yield from map(_answer, answers)
    finally:
        for answer in answers:
            answer.cancel()


def _answer(answer: ts.Future[Any]) -> Answer:
    try:
        found = answer.result()
    except FAILURES as error:
        text = words(error)
        if "was ignored by server" in text:
            return Answer(there=True)  # it sends all where one byte was asked for
        if text.startswith("OUT_OF_RANGE"):
            return Answer(there=True, trouble="0 bytes")
        return Answer(there=True, trouble=text, refused=text.startswith(_REFUSED))
    if found.state == "unspecified":  # which arrays take for missing
        return Answer(there=True, trouble=_EVASIVE, refused=True)
    return Answer(found.state == "value", found.stamp.generation)


def words(error: Exception) -> str:
    """Tensorstore's words in one line, without the page that a server sent along."""
    text = re.sub(r" \[http_response_body='.*?'\](?= \[|$)", "", str(error), flags=re.DOTALL)
    return " ".join(text.split(" [source", 1)[0].split())


@dataclass(frozen=True)
class Entry:
    """A key below a folder, with what the store tells of it without reading it."""

    key: str
    size: int | None = None
    changed: int | None = None  # ns


def entries(container: str, folder: str) -> Iterator[Entry] | None:
    """What lies below a folder of a container; None where the store cannot or may not list.

    Raises:
        InputError: the store fails.
    """
    if not is_remote(container) and not container.endswith(".zip"):
        return _files(str(Path(container, folder)))
    prefix = folder and folder.rstrip("/") + "/"
    end = prefix[:-1] + "0"  # "0" follows "/"
    range_ = ts.KvStore.KeyRange(prefix, end) if prefix else ts.KvStore.KeyRange()
    try:
        keys = store(container).list(range_).result()
    except FAILURES as error:
        if isinstance(error, NotImplementedError) or str(error).startswith(_REFUSED):
            return None
        raise InputError(f"{container}: cannot be listed: {words(error)}") from error
    return (Entry(k.decode()[len(prefix) :]) for k in keys)


def _files(root: str) -> Iterator[Entry]:
    """Files below a folder, with their size; those that a writer is still at are left out.

    Links that lead nowhere, or back to a folder on the way to them, are no files.

    Raises:
        InputError: a folder cannot be read.
    """
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        below, way = waiting.pop()
        try:
            with os.scandir(f"{root}/{below}") as found:
                items = list(found)
        except OSError as error:
            raise InputError(f"{root}/{below}: cannot be read: {error.strerror}") from error
        for item in items:
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile, or a link to nothing
                entry = _entry(item, below, way)
                if isinstance(entry, tuple):
                    waiting.append((f"{below}{item.name}/", entry))
                elif entry is not None:
                    yield entry


def _entry(
    item: os.DirEntry[str], below: str, way: tuple[str, ...]
) -> Entry | tuple[str, ...] | None:
    """A file; for a folder the way to what is in it; None for neither."""
    if item.is_symlink():
        target = os.path.realpath(item.path)
        if os.path.islink(target):  # noqa: PTH114 a circle
            return None
        if item.is_dir():
            up = f"{os.path.realpath(os.path.dirname(item.path))}/"  # noqa: PTH120
            return None if target in way or up.startswith(f"{target}/") else (*way, target)
    if item.is_dir():
        return way
    if item.name.endswith((".__lock", ".partial")):
        return None
    about = item.stat()
    return Entry(f"{below}{item.name}", about.st_size, about.st_mtime_ns)
