"""Sessions: each client's work on one video, and the store of all open sessions."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from sam2fast.compat.video_state import VideoState
from sam2fast.demo.server.demo_errors import BusyError, NoSessionError
from sam2fast.demo.server.frame_masks import ObjectMask

_log = logging.getLogger(__name__)


class Session:
    """One video and its objects. State and masks change in the model's thread only.

    Attributes:
        strategy: the name of its tracking strategy; None for the predictor's.
        masks: the latest masks by frame and object, of every frame that was tracked or prompted.
        tracked: the frames that tracking has reached.
        last_use: the time of the last use, by the monotonic clock.
    """

    def __init__(self, path: str, file: Path, strategy: str | None = None) -> None:
        self.id = str(uuid4())
        self.path, self.file, self.strategy = path, file, strategy
        self.masks: dict[int, Mapping[int, ObjectMask]] = {}
        self.tracked: set[int] = set()
        self.problem: str | None = None
        self.is_closed = False
        self.newest_preview = 0
        self._state: VideoState | None = None
        self._track: threading.Event | None = None
        self.last_use = time.monotonic()
        self._lock = threading.Lock()

    @property
    def state(self) -> VideoState:
        """The tracking state of the video. Raises NoSessionError if the session was closed."""
        if self._state is None:
            raise NoSessionError(self.id)
        return self._state

    @property
    def is_opened(self) -> bool:
        return self._state is not None

    def open(self, state: VideoState) -> None:
        """Sets the state of the opened video."""
        self._state = state

    def touch(self) -> None:
        """Resets the idle time."""
        self.last_use = time.monotonic()

    @property
    def is_tracking(self) -> bool:
        return self._track is not None

    def next_preview(self) -> int:
        """Begins a preview of a refinement, which replaces those that wait; returns its number."""
        with self._lock:
            self.newest_preview += 1
            return self.newest_preview

    def begin_track(self) -> threading.Event:
        """Starts a track and cancels the one that is running; returns an event that is set to cancel the new one."""
        with self._lock:
            if self._track is not None:
                self._track.set()
            self._track, self.problem = threading.Event(), None
            return self._track

    def end_track(self, track: threading.Event) -> None:
        """Marks this track as ended, unless another one has replaced it."""
        with self._lock:
            if self._track is track:
                self._track = None

    def cancel_track(self) -> None:
        """Cancels the running track, if there is one."""
        with self._lock:
            if self._track is not None:
                self._track.set()

    def close(self) -> None:
        """Starts nothing further; :meth:`release` frees the memory."""
        self.is_closed = True
        self.cancel_track()

    def release(self) -> None:
        """Frees all memory; runs in the model's thread."""
        state, self._state = self._state, None
        self.masks, self.tracked = {}, set()
        if state is not None:
            state.clear()
            state.features.clear()
            state.frames.close()


class SessionStore:
    """Open sessions by id; thread-safe.

    Args:
        limit: the largest number of open sessions.
        idle_seconds: a session that is unused for this long is closed.
        release: frees a session's memory after it was removed from the store.
    """

    def __init__(self, limit: int, idle_seconds: float, release: Callable[[Session], None]) -> None:
        self.limit, self.idle_seconds = limit, idle_seconds
        self._release = release
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_often, name="sweeper", daemon=True)
        self._sweeper.start()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Registers a session before its video is opened. Raises BusyError with the time to wait at the limit."""
        self.sweep()
        with self._lock:
            if self._is_closed.is_set():
                raise BusyError("the server is shutting down")
            if len(self._sessions) >= self.limit:
                soonest = min(self.seconds_left(other) for other in self._sessions.values())
                wait = f"{soonest / 60:.0f} minutes" if soonest >= 90 else f"{soonest:.0f} seconds"
                raise BusyError(
                    f"busy: {len(self._sessions)} sessions of at most {self.limit} are open; "
                    f"try again in about {wait}, or sooner if one is closed"
                )
            self._sessions[session.id] = session

    def get(self, session_id: str) -> Session:
        """An open session. Raises NoSessionError if no session has this id."""
        session = self._sessions.get(session_id)
        if session is None or session.is_closed:
            raise NoSessionError(session_id)
        return session

    def use(self, session_id: str) -> Session:
        """As :meth:`get`, and resets the idle time."""
        session = self.get(session_id)
        session.touch()
        return session

    def close(self, session_id: str) -> bool:
        """Closes a session and cancels its track; returns whether the session existed."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is None:
            return False
        session.close()
        self._release(session)
        return True

    def seconds_left(self, session: Session) -> float:
        """Seconds until the idle session is closed."""
        return max(0.0, session.last_use + self.idle_seconds - time.monotonic())

    def files_in_use(self) -> set[str]:
        """Paths of the videos of open sessions."""
        with self._lock:
            return {session.path for session in self._sessions.values()}

    def opened(self) -> list[Session]:
        """Sessions whose video is open."""
        with self._lock:
            return [session for session in self._sessions.values() if session.is_opened]

    def sweep(self) -> None:
        """Closes idle sessions."""
        with self._lock:
            idle = [i for i, session in self._sessions.items() if self.seconds_left(session) == 0]
        for session_id in idle:
            _log.info("session %s has expired", session_id)
            try:
                self.close(session_id)
            except Exception:  # the session is removed already; go on with the others
                _log.exception("session %s could not be freed", session_id)

    def close_all(self) -> None:
        """Closes all sessions without waiting for their memory; no session can be added afterwards."""
        with self._lock:
            self._is_closed.set()
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()

    def _sweep_often(self) -> None:
        while not self._is_closed.wait(min(10.0, max(0.05, self.idle_seconds / 4))):
            self.sweep()
