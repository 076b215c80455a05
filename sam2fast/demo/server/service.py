"""The demo's operations, independent of HTTP."""

import logging
from collections.abc import Callable, Iterator
from threading import Event
from typing import Concatenate, Literal, ParamSpec, TypeVar, get_args

from sam2fast.demo.server.demo_errors import (
    BadInputError,
    BusyError,
    DemoError,
    NoSessionError,
    message_without_path,
    shortened,
)
from sam2fast.demo.server.frame_masks import FrameMasks
from sam2fast.demo.server.jobs import Jobs
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.model_calls import SessionCalls, TrackPlan
from sam2fast.demo.server.model_thread import CLOSING, ModelThread
from sam2fast.demo.server.prompt_limits import MemoryBudget
from sam2fast.demo.server.sessions import Session, SessionStore
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io import VideoError

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Direction = Literal["both", "forward", "backward"]


class DemoService:
    """Sessions on videos of a library that share one model, which nothing else may use.

    Every method is thread-safe. A failed call changes nothing. ``calls`` are the operations for :meth:`call`.
    """

    def __init__(self, settings: ServerSettings, predictor: SAM2VideoPredictor, library: Library) -> None:
        self.settings, self.predictor, self.library = settings, predictor, library
        self.model, self.jobs = ModelThread(predictor.device), Jobs()
        self.sessions = SessionStore(settings.max_sessions, 60 * settings.session_minutes, self._release)
        self._set_model(settings.model, predictor)
        self.is_closing = False

    def start_session(self, path: str, strategy: str | None = None) -> Session:
        """Opens a video of the library.

        Args:
            strategy: the name of a tracking strategy; None for the predictor's.

        Raises:
            NotFoundError, BadInputError: there is no such video, or it cannot be read.
            BusyError: too many sessions are open.
        """
        session = Session(path, self.library.find(path), strategy)
        self.sessions.add(session)
        try:
            self.model.call(lambda: self.calls.open(session))  # of the model at that time
        except BaseException:
            self.sessions.close(session.id)
            raise
        session.touch()
        return session

    def call(
        self, operation: Callable[Concatenate[Session, P], T], session_id: str, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs one of ``calls`` on a session in the model's thread. Raises NoSessionError, or as ``operation`` does."""
        return self.model.call(operation, self.sessions.use(session_id), *args, **kwargs)

    def track(self, session_id: str, plan: TrackPlan, direction: Direction = "both") -> Iterator[FrameMasks]:
        """Tracks objects from a frame to the video's end, then back from that frame to the beginning.

        The start frame comes twice unless it is the first, as in the official demo. The session's running track is
        cancelled. Errors of the request are raised at once, not with the first frame.

        Args:
            direction: ``forward`` or ``backward`` for one direction only.

        Raises:
            NoSessionError, BadInputError: there is no such session, frame, object or direction.
            NothingToTrackError: an object has no points.
        """
        session = self.sessions.use(session_id)
        if direction not in get_args(Direction):
            raise BadInputError(
                f"there is no direction {shortened(direction)}; expected {', '.join(get_args(Direction))}"
            )
        towards = 0 if plan.end is None else plan.end - plan.start
        if (direction == "both" and plan.end is not None) or (towards < 0 if direction == "forward" else towards > 0):
            raise BadInputError(
                f"end_frame_index is {plan.end}; expected a frame after start_frame_index with the direction "
                "forward, one before it with backward"
            )
        return self._frames(session, self.model.call(self.calls.begin_track, session, plan), plan, direction)

    def replace_model(self, name: str, predictor: SAM2VideoPredictor) -> None:
        """Uses another model on the same device, and closes the sessions of the earlier one."""
        self.model.call(self._set_model, name, predictor)
        for session in self.sessions.opened():
            if session.is_closed:  # by the change
                self.sessions.close(session.id)

    def close(self) -> None:
        """Closes all sessions and the model's thread."""
        self.is_closing = True
        self.sessions.close_all()
        self.model.close()

    def _set_model(self, name: str, predictor: SAM2VideoPredictor) -> None:
        """In the model's thread, once there is one: no call sees a part of the change."""
        self.model_name, self.predictor = name, predictor
        self.budget = MemoryBudget.of(predictor, self.settings.session_megabytes)
        self.calls = SessionCalls(predictor, self.budget)
        for session in self.sessions.opened():
            session.close()

    def _frames(self, session: Session, track: Event, plan: TrackPlan, direction: Direction) -> Iterator[FrameMasks]:
        try:
            for reverse in {"forward": [False], "backward": [True]}.get(direction, [False, True]):
                frames = self.calls.propagate(session, plan, reverse)
                while (found := self.model.track_frame(self.calls.next_frame, session, track, frames)) is not None:
                    session.touch()
                    yield found
                if self.is_closing:  # the track did not come to its end
                    raise BusyError(CLOSING)
        except NoSessionError:
            return  # the session was closed: the stream ends
        except Exception as error:
            session.problem = "tracking failed; the server's log says more"
            if isinstance(error, DemoError | VideoError):
                session.problem = message_without_path(error, session.file)
            raise
        finally:
            session.end_track(track)

    def _release(self, session: Session) -> None:
        try:
            self.model.call(session.release)
        except BusyError:
            _log.debug("session %s is freed when the process ends", session.id)
