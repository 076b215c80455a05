"""Downloads in the background, with their progress."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)


class Download(NamedTuple):
    """What a client may ask the server to download.

    Attributes:
        is_ready: whether the server has it.
        run: downloads it; the message of an OSError is shown to clients.
        parts: the files that grow during the download.
        size: bytes of all files.
    """

    is_ready: Callable[[], bool]
    run: Callable[[], object]
    parts: Callable[[], list[Path]]
    size: int


class Downloads:
    """Runs each download, by name, at most once at a time, in a thread of its own; thread-safe."""

    def __init__(self, downloads: dict[str, Download]) -> None:
        self._downloads = downloads
        self._running: set[str] = set()
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> None:
        """Starts a download, unless it runs or is finished."""
        with self._lock:
            if name in self._running or self._downloads[name].is_ready():
                return
            self._running.add(name)
            self._problems.pop(name, None)
        threading.Thread(target=self._run, args=(name,), name=f"download {name}", daemon=True).start()

    def status(self, name: str) -> dict[str, Any]:
        """A download as JSON.

        ``state`` is ``missing``, ``downloading``, ``ready`` or ``failed``; ``share`` is that of the bytes that have
        arrived; ``problem`` says why it failed.
        """
        download = self._downloads[name]
        with self._lock:
            is_running, problem = name in self._running, self._problems.get(name)
        if is_running:
            arrived = 0
            for file in download.parts():
                with suppress(FileNotFoundError):  # it has not begun, or was renamed just now
                    arrived += file.stat().st_size
            return {"state": "downloading", "share": round(min(1.0, arrived / download.size), 3), "problem": None}
        state = "ready" if download.is_ready() else "missing" if problem is None else "failed"
        return {"state": state, "share": float(state == "ready"), "problem": problem if state == "failed" else None}

    def _run(self, name: str) -> None:
        problem = None
        try:
            self._downloads[name].run()
        except OSError as error:
            problem = str(error)
        except Exception:
            _log.exception("the download of %s failed", name)
            problem = "the download failed; the server's log says more"
        with self._lock:
            self._running.discard(name)
            if problem is not None:
                self._problems[name] = problem
