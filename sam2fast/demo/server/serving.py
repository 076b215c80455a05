"""Runs the application in gunicorn: one process, because sessions live in its memory, and a thread per request.

Nothing here imports torch: gunicorn forks, and torch's threads do not survive a fork.
"""

import logging
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http.wsgi import FileWrapper
from gunicorn.workers.gthread import ThreadWorker

from sam2fast.demo.server.connections import ConnectionWorker
from sam2fast.demo.server.demo_errors import DemoError
from sam2fast.demo.server.settings import SERVICE
from sam2fast.utils.errors import FixableError

if TYPE_CHECKING:
    from sam2fast.demo.server.service import DemoService

GRACE_SECONDS = 8  # for the current frame, when the server is shut down
THREADS, CONNECTIONS, OPEN_FILES = 512, 2048, 4096  # a thread costs little
FILE_BLOCK_BYTES = 1 << 18
OTHER_FILES = 512  # open files besides connections
FAILED_TO_START = Arbiter.WORKER_BOOT_ERROR  # exit code of ``build`` after it has printed its error


@dataclass(frozen=True)
class Address:
    """The address to listen on; port 0 selects a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServingError(FixableError):
    """The server could not start."""


class DemoWorker(ConnectionWorker):
    """Ends streams at shutdown instead of at the end of their videos."""

    def init_process(self) -> None:
        """Runs in the worker process before it serves."""
        self.log.error_log.addFilter(_is_logged)
        super().init_process()

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
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError | TimeoutError | DemoError))


class _FileBlocks(FileWrapper):
    """A file in large blocks: with small ones, hundreds of downloads delay all other threads."""

    def __init__(self, file: Any, _: int) -> None:
        super().__init__(file, FILE_BLOCK_BYTES)


class _Server(BaseApplication):
    def __init__(self, build: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._build, self._options = build, options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:  # older versions lack some
                self.cfg.set(name, value)

    def load(self) -> Flask:
        app = self._build()
        answer = app.wsgi_app

        def with_large_blocks(environ: dict[str, Any], start_response: Any) -> Any:
            return answer({**environ, "wsgi.file_wrapper": _FileBlocks}, start_response)

        app.wsgi_app = with_large_blocks  # type: ignore[method-assign]
        return app


def serve(build: Callable[[], Flask], address: Address, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        build: makes the application in the worker process, because threads and devices do not survive a fork. On
            failure it prints the error and exits with :data:`FAILED_TO_START`.
        on_ready: receives the server's URL as soon as requests are answered.

    Raises:
        ServingError: If the address is not available, or ``build`` has failed and printed why.
    """

    def report_address(worker: ThreadWorker) -> None:
        host, port = worker.sockets[0].getsockname()[:2]
        on_ready(f"http://{Address(host, port)}")

    _check_free(address)
    files = _raise_open_files()
    options = {
        "bind": [str(address)],
        "worker_class": DemoWorker,
        "workers": 1,
        "threads": THREADS,
        "worker_connections": min(CONNECTIONS, files - OTHER_FILES),
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


def _raise_open_files() -> int:
    """Raises the limit of open files, because gunicorn ends if a connection exceeds it, and returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:
        soft = OPEN_FILES if hard < 0 else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return OPEN_FILES if soft < 0 else soft


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
