"""The application in gunicorn: one process, because sessions live in its memory, and a thread per connection.

Nothing here imports torch: gunicorn forks, and torch's threads do not survive a fork.
"""

import logging
import os
import resource
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from sam2fast.demo.server.demo_errors import DemoError
from sam2fast.demo.server.settings import SERVICE

if TYPE_CHECKING:
    from sam2fast.demo.server.service import DemoService

GRACE_SECONDS = 8  # for the current frame, when the server is shut down
THREADS, CONNECTIONS, OPEN_FILES = 512, 1024, 4096  # a slow client occupies a thread, and a thread costs little
SEND_TIMEOUT = 30.0  # seconds in which a client must accept some data
RECEIVE_TIMEOUT = 15.0  # seconds in which a client must send more of its request
HEADERS_TIMEOUT = 15.0  # seconds in which a client must send all headers of a request
FAILED_TO_START = Arbiter.WORKER_BOOT_ERROR  # exit code of ``build`` after it has printed its error


@dataclass(frozen=True)
class Address:
    """The address to listen on; port 0 selects a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServingError(Exception):
    """The server could not start."""


class DemoWorker(ThreadWorker):
    """Drops clients that stall, and ends streams at shutdown instead of at the end of their videos."""

    def init_process(self) -> None:
        """Runs in the worker process before it serves."""
        self.log.error_log.addFilter(_is_logged)
        self._deadlines: dict[Any, float] = {}  # of connections whose headers are being read
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Hands a connection to a thread."""
        set_timeouts(conn.sock, RECEIVE_TIMEOUT, SEND_TIMEOUT)
        self._deadlines[conn] = time.monotonic() + HEADERS_TIMEOUT
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answers a request whose headers were read; runs in the connection's thread."""
        self._deadlines.pop(conn, None)
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Takes a connection back from its thread."""
        self._deadlines.pop(conn, None)
        super().finish_request(conn, fs)

    def notify(self) -> None:
        """Runs about once a second; ends the threads that wait for late headers."""
        super().notify()
        now = time.monotonic()
        for conn, deadline in list(self._deadlines.items()):
            if deadline < now:
                self._deadlines.pop(conn, None)
                with suppress(OSError):  # it is closed already
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handles SIGTERM."""
        self._close_service()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Handles SIGQUIT and SIGINT."""
        self._close_service()
        super().handle_quit(sig, frame)

    def _close_service(self) -> None:
        app = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            service: DemoService | None = app.extensions.get(SERVICE)
            if service is not None:  # a page without a server has none
                service.close()


def _is_logged(record: logging.LogRecord) -> bool:
    """Leaves out the tracebacks of clients that timed out, and of streams that a :class:`DemoError` breaks off."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError | DemoError))


def set_timeouts(connection: socket.socket, receive: float, send: float) -> None:
    """Sets the seconds after which receiving or sending fails if no byte was transferred.

    Without them, a few clients that stall in the middle of a request or an answer would occupy all threads for minutes.
    ``connection.settimeout`` does not fit: it limits the duration of a whole send, and gunicorn resets it.
    """
    for option, seconds in ((socket.SO_RCVTIMEO, receive), (socket.SO_SNDTIMEO, send)):
        with suppress(OSError):  # systems with another form of this option
            duration = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, option, duration)


class _Server(BaseApplication):
    def __init__(self, build: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._build, self._options = build, options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:  # older versions lack some
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._build()


def serve(build: Callable[[], Flask], address: Address, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        build: makes the application in the worker process, because threads and devices do not survive a fork. On
            failure it prints the error and exits with :data:`FAILED_TO_START`.
        on_ready: receives the server's URL as soon as requests are answered.

    Raises:
        ServingError: the address is not available, or ``build`` has failed and printed why.
    """

    def report_address(worker: ThreadWorker) -> None:
        host, port = worker.sockets[0].getsockname()[:2]
        on_ready(f"http://{Address(host, port)}")

    options = {
        "bind": [str(address)],
        "worker_class": DemoWorker,
        "workers": 1,
        "threads": THREADS,
        "worker_connections": CONNECTIONS,
        "timeout": 0,  # loading a large model takes as long as it takes
        "graceful_timeout": GRACE_SECONDS,
        "sendfile": False,  # sendfile waits for ever for a client that accepts nothing
        "loglevel": "warning",
        "post_worker_init": report_address,
        "worker_exit": _exit_worker,
        # For an unlinked temporary file.
        "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # noqa: S108
        "control_socket_disable": True,
    }
    _check_free(address)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:  # gunicorn ends if there are too many connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if hard < 0 else min(OPEN_FILES, hard), hard))
    parent = os.getpid()
    try:
        Arbiter(_Server(build, {name: value for name, value in options.items() if value is not None})).run()
    except SystemExit as end:
        if os.getpid() != parent:  # the worker process, which also ends here
            raise
        if end.code == FAILED_TO_START:
            raise ServingError("the server could not start; the reason is printed above") from end
        if end.code:
            raise ServingError(f"the server ended with exit code {end.code}") from end


def _exit_worker(arbiter: Arbiter, worker: ThreadWorker) -> None:
    """Exits the worker at once: nothing remains to be saved, and freeing a model takes seconds."""
    if worker.booted and os.getpid() == worker.pid:
        logging.shutdown()
        os._exit(0)


def _check_free(address: Address) -> None:
    """Fails at once where gunicorn would retry for seconds and log little."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(target)
    except OSError as error:
        raise ServingError(f"cannot listen on {address}: {error.strerror or error}; see --host and --port") from error
