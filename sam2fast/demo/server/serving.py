"""The application in gunicorn: one process, since sessions live in its memory, with a thread for each request."""

import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.service import DemoService

GRACE_SECONDS = 8  # for the frame at hand, when the server is told to end
SPARE_THREADS = 8  # besides one for each session's stream
SENDING_PATIENCE = 30.0  # seconds for a client to take any of what is sent to it
READING_PATIENCE = 15.0  # seconds for a client to send any more of a request that it has begun
FAILED_TO_START = Arbiter.WORKER_BOOT_ERROR  # exit code of ``build``, when it has said why


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServingError(Exception):
    """The server could not begin."""


class DemoWorker(ThreadWorker):
    """Gives up clients that keep threads waiting, and ends streams when told to end instead of at the videos' ends."""

    def init_process(self) -> None:
        """In the process that serves, before it does."""
        self.log.error_log.addFilter(_is_worth_telling)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Gives a connection a thread."""
        limit_patience(conn.sock, READING_PATIENCE, SENDING_PATIENCE)
        super().enqueue_req(conn)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM."""
        self._close_service()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT."""
        self._close_service()
        super().handle_quit(sig, frame)

    def _close_service(self) -> None:
        app = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            service: DemoService = app.extensions[SERVICE]
            service.close()


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """That a client was given up is its own affair, and would be told at length each time."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def limit_patience(connection: socket.socket, reading: float, sending: float) -> None:
    """Reading from who sends nothing for so many seconds fails, and sending to who takes nothing.

    Without this, clients that stop amid a request or an answer hold their threads for minutes, and a few of them all.
    Not ``connection.settimeout``, which counts for the whole of what is sent at a time, and would be undone.
    """
    for option, seconds in ((socket.SO_RCVTIMEO, reading), (socket.SO_SNDTIMEO, sending)):
        with suppress(OSError):  # where a system has another form of it
            duration = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, option, duration)


class _Server(BaseApplication):
    def __init__(self, build: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._build, self._options = build, options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:  # later versions have more of them
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._build()


def serve(build: Callable[[], Flask], address: Address, max_sessions: int, tell: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        build: makes the application, in the process that serves it: threads and devices do not survive a fork. If it
            cannot, it says why and exits with :data:`FAILED_TO_START`.
        tell: is given the address when requests are answered.

    Raises:
        ServingError: the address cannot be had, or ``build`` has failed and said why.
    """

    def told(worker: ThreadWorker) -> None:
        host, port = worker.sockets[0].getsockname()[:2]
        tell(f"http://{Address(host, port)}")

    options = {
        "bind": [str(address)],
        "worker_class": DemoWorker,
        "workers": 1,
        "threads": max_sessions + SPARE_THREADS,
        "worker_connections": 10 * (max_sessions + SPARE_THREADS),
        "timeout": 0,  # loading a large model takes as long as it takes
        "graceful_timeout": GRACE_SECONDS,
        "sendfile": False,  # which waits for ever for a client that takes nothing
        "loglevel": "warning",
        "post_worker_init": told,
        "worker_exit": _leave,
        # For a file without a name.
        "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # noqa: S108
        "control_socket_disable": True,
    }
    _check_free(address)
    parent = os.getpid()
    try:
        Arbiter(_Server(build, {name: value for name, value in options.items() if value is not None})).run()
    except SystemExit as end:
        if os.getpid() != parent:  # the process that serves, which ends here too
            raise
        if end.code == FAILED_TO_START:
            raise ServingError("the server could not start; what is wrong is said above") from end
        if end.code:
            raise ServingError(f"the server has ended with {end.code}") from end


def _leave(arbiter: Arbiter, worker: ThreadWorker) -> None:
    """Nothing is left to be saved in the process that serves, and taking a model apart takes seconds."""
    if worker.booted and os.getpid() == worker.pid:
        logging.shutdown()
        os._exit(0)


def _check_free(address: Address) -> None:
    """gunicorn would try for seconds, and say little."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        raise ServingError(f"cannot listen at {address}: {error.strerror or error}; see --host and --port") from error
