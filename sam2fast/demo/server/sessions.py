"""All open sessions: how many there may be, and when they end."""

import logging
import threading
from collections.abc import Callable

from sam2fast.demo.server.errors import BusyError, NoSessionError
from sam2fast.demo.server.session import Session

_log = logging.getLogger(__name__)


class SessionStore:
    """Sessions by id; safe from several threads.

    Args:
        limit: how many may be open.
        idle_seconds: without use, after which one is closed.
        release: frees a session's memory, once it is no more among the open ones.
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
        """Registers a session, before it costs anything.

        Raises:
            BusyError: there are as many as there may be; says for how long at most.
        """
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
        """An open session.

        Raises:
            NoSessionError: there is none by this id.
        """
        session = self._sessions.get(session_id)
        if session is None or session.is_closed:
            raise NoSessionError(session_id)
        return session

    def use(self, session_id: str) -> Session:
        """The same, counted as a use."""
        session = self.get(session_id)
        session.touch()
        return session

    def close(self, session_id: str) -> bool:
        """Ends a session and what it tracks; says whether there was one."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is None:
            return False
        session.close()
        self._release(session)
        return True

    def seconds_left(self, session: Session) -> float:
        """Until the session is closed for want of use."""
        return max(0.0, self.idle_seconds - session.idle_seconds())

    def files_in_use(self) -> set[str]:
        """Paths of the videos of open sessions."""
        with self._lock:
            return {session.path for session in self._sessions.values()}

    def sweep(self) -> None:
        """Closes what has not been used for too long."""
        with self._lock:
            idle = [i for i, session in self._sessions.items() if self.seconds_left(session) == 0]
        for session_id in idle:
            _log.info("session %s has expired", session_id)
            try:
                self.close(session_id)
            except Exception:  # it is gone all the same, and others are waiting for their turn
                _log.exception("session %s could not be freed", session_id)

    def close_all(self) -> None:
        """Ends all sessions without waiting for their memory; none can be added any more."""
        with self._lock:
            self._is_closed.set()
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()

    def _sweep_often(self) -> None:
        while not self._is_closed.wait(min(10.0, max(0.05, self.idle_seconds / 4))):
            self.sweep()
