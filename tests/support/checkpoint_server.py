"""A web server in this process that serves files with or without faults, and records requests.

Each GET uses up one of the file's ``faults``. ``/hub`` is a Hugging Face hub with large files on another host.
"""

import contextlib
import hashlib
import io
import json
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK = 1 << 14


def make_checkpoint(seed: int = 0) -> bytes:
    """Returns the bytes of a file like torch.save's: an archive with ``data.pkl`` and one tensor."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", random.Random(seed).randbytes(300_000))
    return buffer.getvalue()


@dataclass
class Served:
    """A file on the server; ``faults`` take the handler, the file, and the bytes asked for as a range."""

    data: bytes
    etag: str = '"v1"'
    faults: list["Fault"] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]


Fault = Callable[["Handler", Served], None]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    site: "CheckpointServer"

    def do_GET(self) -> None:
        """Serves a file, or the next of its faults."""
        self.site.asked.append(Asked(self.command, self.path, {k.title(): v for k, v in self.headers.items()}))
        path = unquote(self.path)
        with contextlib.suppress(ConnectionError):
            if path.startswith("/hub/"):
                self.hub(path.removeprefix("/hub/"))
            elif path in self.site.files:
                file = self.site.files[path]
                faults = file.faults if self.command == "GET" else []
                (faults.pop(0) if faults else serve)(self, file)
            else:
                self.send_error(404)

    do_HEAD = do_GET  # without the body

    def hub(self, path: str) -> None:
        """Answers as the hub: large files are a redirect with headers that describe them."""
        if path.startswith("api/models/"):
            kind = "/tree/" if "/tree/" in path else "/revision/"
            repo = path.removeprefix("api/models/").partition(kind)[0]
            files = {name: file for (owner, name), file in self.site.hub_files.items() if owner == repo}
            tree = [{"type": "file", "path": n, "size": len(f.data), "oid": f.sha256} for n, f in files.items()]
            about = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            if files:
                self.reply(200, json.dumps(tree if kind == "/tree/" else about).encode())
            else:
                self.send_error(404)
            return
        repo, _, rest = path.removeprefix("api/resolve-cache/").partition("/resolve/")
        file = self.site.hub_files.get((repo, rest.partition("/")[2]))
        if file is None or rest.partition("/")[0] not in ("main", COMMIT):
            self.send_error(404)
            return
        if not path.endswith((".pt", ".safetensors")):
            self.small_on_hub(path, file)
            return
        self.send_response(302)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-ETag", f'"{file.sha256}"')
        self.send_header("X-Linked-Size", str(len(file.data)))
        self.send_header("Location", f"http://localhost:{self.site.port}/stored/{file.sha256}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def small_on_hub(self, path: str, file: Served) -> None:
        """What is small is on the hub itself, behind a redirect; its ETag is git's hash."""
        if not path.startswith("api/"):
            self.reply(307, Location=f"/hub/api/resolve-cache/{path}", X_Repo_Commit=COMMIT)
            return
        git = hashlib.sha1(b"blob %d\0" % len(file.data) + file.data).hexdigest()
        self.reply(200, file.data, ETag=f'"{git}"', X_Repo_Commit=COMMIT)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A short answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def start_of(self, file: Served) -> int:
        """The first byte asked for; 0 for the whole file."""
        asked = self.headers.get("Range")
        return 0 if asked is None else int(asked.removeprefix("bytes=").rstrip("-"))

    def head(self, file: Served, announced: int | None = None) -> int:
        """Sends the headers, with another length if ``announced``; gives the first byte to be sent."""
        start = self.start_of(file)
        if start and start >= len(file.data):
            self.reply(416, Content_Range=f"bytes */{len(file.data)}")
            return len(file.data)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(file.data) - 1}/{len(file.data)}")
        self.send_header("ETag", file.etag)
        self.send_header("Content-Length", str(len(file.data) - start if announced is None else announced))
        self.end_headers()
        return start

    def body(self, data: bytes) -> None:
        """Sends bytes, and counts them first, so that a client that has them all sees the final count."""
        if self.command != "GET":
            return
        for begin in range(0, len(data), BLOCK):
            block = data[begin : begin + BLOCK]
            with self.site.counting:
                self.site.sent += len(block)
            self.wfile.write(block)

    def log_message(self, *args: object) -> None:
        """Nothing is written."""


def serve(handler: Handler, file: Served) -> None:
    """The file, as it should be."""
    start = handler.head(file)
    handler.body(file.data[start:])


class CheckpointServer:
    """The server: ``files`` by path, ``hub_files`` by repository and name, and the requests."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.hub_files: dict[tuple[str, str], Served] = {}
        self.asked: list[Asked] = []
        self.sent = 0  # bytes of bodies of files
        self.counting = threading.Lock()
        self.stalled, self.go_on = threading.Event(), threading.Event()
        handler = type("SiteHandler", (Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def add(self, path: str, data: bytes, *faults: Fault) -> Served:
        """Puts a file on the server."""
        self.files[path] = Served(data, faults=list(faults))
        return self.files[path]

    def add_to_hub(self, repo: str, name: str, data: bytes) -> None:
        """Puts a file on the hub."""
        file = Served(data, etag=f'"{hashlib.md5(data).hexdigest()}"')
        self.hub_files[repo, name] = self.files[f"/stored/{file.sha256}"] = file

    def gets(self, path: str) -> list[Asked]:
        """The GET requests for a path."""
        return [asked for asked in self.asked if asked.method == "GET" and asked.path == path]

    @contextmanager
    def running(self) -> Iterator["CheckpointServer"]:
        """Serves until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
