"""``sam2fast serve`` as a process of its own on the loopback address, and sockets that misbehave."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class DemoProcess:
    """A server that runs at ``url``, and has ``said`` something before it was ready."""

    def __init__(self, process: subprocess.Popen[str], url: str, said: str) -> None:
        self.process, self.url, self.said = process, url, said
        self.port = int(url.rsplit(":", 1)[1])

    def post(self, path: str, body: Any, timeout: float = 60) -> Any:
        """An answer's JSON."""
        asked = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=timeout) as answer:
            return json.load(answer)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def mutate(self, query: str, **fields: Any) -> Any:
        """The one field of a mutation's answer."""
        answer = self.post("/graphql", {"query": query, "variables": {"i": fields}})
        assert "errors" not in answer, answer
        return next(iter(answer["data"].values()))

    def begin_track(self, session: str) -> tuple[socket.socket, bytes]:
        """A connection on which frames are coming, and what has come."""
        body = json.dumps({"session_id": session}).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(
            b"POST /propagate_in_video HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        come = b""
        while b"frame_index" not in come:
            block = connection.recv(1 << 16)
            assert block, come
            come += block
        return connection, come

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(data: Path, *arguments: str, threads: int = 1) -> Iterator[DemoProcess]:
    """A server with nano and this data folder."""
    command = [str(Path(sys.executable).with_name("sam2fast")), "serve", "--device", "cpu", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(data), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Open http://" in line:
                    yield DemoProcess(process, line.split()[1].partition("/?token=")[0], "".join(said))
                    break
            else:
                raise AssertionError(f"the server did not start: {''.join(said)}")
        finally:
            if process.poll() is None:
                process.kill()
