"""Servers on this machine that hand out a folder, over HTTP or as S3, and misbehave as told.

The S3 one knows what reading needs: objects, byte ranges, listing in pages, signatures.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

PAGE = 3  # keys in one answer to a listing: small, so that there are several
HTML = b"<!doctype html><title>Sign in</title>"


@dataclass
class Fault:
    """What goes wrong: a status, or "short", "drop", "html", "noise", "slow" or "silent".

    It meets requests whose path matches `where`, the first `times` of them.
    """

    what: int | str
    where: str = ""
    times: float = float("inf")


@dataclass
class Served:
    """A folder that is being served, and what was asked of the server."""

    folder: Path
    faults: list[Fault] = field(default_factory=list)
    ranges: bool = True
    keys: dict[str, str] = field(default_factory=dict)  # S3: id and secret that may read; {}: all
    asked: list[tuple[float, str, str]] = field(default_factory=list)  # when, path, signed by
    port: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}"

    def times(self, where: str) -> list[float]:
        """When paths that match were asked for."""
        return [when for when, path, _ in self.asked if re.search(where, path)]

    def fault(self, path: str) -> int | str | None:
        """What is to go wrong with a request."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, path):
                    fault.times -= 1
                    return fault.what
        return None


class Files(BaseHTTPRequestHandler):
    """Files by their path; no listing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: Served

    def do_GET(self) -> None:
        """Answer, or misbehave."""
        path = unquote(urlsplit(self.path).path)
        with self.served.lock:
            self.served.asked.append((time.monotonic(), path, self.signed_by()))
        fault = self.served.fault(path)
        if isinstance(fault, int):
            self.say(fault, b"" if fault in (204, 304) else b"<p>\nno</p>")
        elif fault == "html":
            self.say(200, HTML)
        elif fault == "drop":
            self.close_connection = True
        elif fault == "silent":
            self.served.gone.wait()
            self.close_connection = True
        else:
            if fault == "slow":
                time.sleep(0.3)
            self.give(path, fault)

    do_HEAD = do_GET

    def give(self, path: str, fault: int | str | None) -> None:
        """A file, or the part of it that is asked for."""
        file = self.served.folder / path.lstrip("/")
        if not file.is_file():
            self.say(404, b"not here")
            return
        body, status = file.read_bytes(), 200
        headers = {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}
        if fault == "noise":
            body = bytes(255 - b for b in body)
        if fault == "short":
            self.say(status, body, length=len(body) + 10)
            self.close_connection = True
            return
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.served.ranges:
            first, last = self.part(wanted[1], wanted[2], len(body))
            if first >= len(body):
                self.say(416, b"")
                return
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        self.say(status, body, **headers)

    @staticmethod
    def part(first: str, last: str, size: int) -> tuple[int, int]:
        """First and last byte of a range; one without a first counts from the end."""
        if not first:
            return max(size - int(last), 0), size - 1
        return int(first), min(int(last or size), size - 1)

    def say(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def signed_by(self) -> str:
        """Who signed the request; "" for nobody."""
        return ""

    def log_message(self, *_: object) -> None:
        """Not on stderr, where tests look for noise."""


class Bucket(Files):
    """Folders as buckets of S3, addressed by path."""

    def give(self, path: str, fault: int | str | None) -> None:
        """An object or a listing, to those who may read."""
        if self.served.keys and not self.signed_by():
            self.say(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        bucket, _, key = path.lstrip("/").partition("/")
        if not (self.served.folder / bucket).is_dir():
            self.say(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif key:
            super().give(path, fault)
        else:
            self.list(bucket, dict(parse_qsl(urlsplit(self.path).query)))

    def list(self, bucket: str, query: dict[str, str]) -> None:
        """A page of the keys with a prefix."""
        root = self.served.folder / bucket
        keys = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        after = max(query.get("continuation-token", ""), query.get("start-after", ""))
        left = [k for k in keys if k.startswith(query.get("prefix", "")) and k > after]
        page = left[:PAGE]
        items = "".join(f"<Contents><Key>{k}</Key><Size>1</Size></Contents>" for k in page)
        more = len(left) > PAGE
        items += f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        head = f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        kind = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        self.say(200, f"{kind}{head}{items}</ListBucketResult>".encode())

    def signed_by(self) -> str:
        """The key's id where the signature (AWS version 4) is right."""
        stated = self.headers.get("Authorization", "")
        found = re.search(
            r"Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Sig\w+=(\w+)", stated
        )
        if not found or found[1] not in self.served.keys:
            return ""
        user, scope, names, signature = found.groups()
        url = urlsplit(self.path)
        query = sorted(parse_qsl(url.query, keep_blank_values=True))
        request = "\n".join(
            [
                self.command,
                quote(unquote(url.path)),
                "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in query),
                *(f"{n}:{self.headers[n].strip()}" for n in names.split(";")),
                "",
                names,
                self.headers["x-amz-content-sha256"],
            ]
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{digest}"
        key = f"AWS4{self.served.keys[user]}".encode()
        for part in [*scope.split("/"), text]:
            key = hmac.digest(key, part.encode(), "sha256")
        return user if hmac.compare_digest(key.hex(), signature) else ""


class Server(ThreadingHTTPServer):
    """Does not mind who hangs up."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(folder: Path, kind: type[Files] = Files) -> Iterator[Served]:
    """Serve a folder until the end of the block."""
    served = Served(folder)
    handler = type(kind.__name__, (kind,), {"served": served})
    with Server(("127.0.0.1", 0), handler) as server:
        served.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.gone.set()
            server.shutdown()
            thread.join()
