"""The demo's operations, independent of HTTP."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, ParamSpec, TypeVar, get_args

import torch

from sam2fast.demo.server.demo_errors import (
    BadInputError,
    BusyError,
    DemoError,
    NoSessionError,
    message_without_path,
    shortened,
)
from sam2fast.demo.server.frame_masks import FrameMasks, ObjectMask
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.model_calls import ModelThread, SessionCalls
from sam2fast.demo.server.prompt_limits import MemoryBudget
from sam2fast.demo.server.sessions import Session, SessionStore, TrackRun
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io import VideoError

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Direction = Literal["both", "forward", "backward"]


class DemoService:
    """Sessions on videos of a library that share one model.

    Every method is thread-safe. A failed call changes nothing.

    Args:
        predictor: the video predictor; nothing else may use it.
    """

    def __init__(self, settings: ServerSettings, predictor: SAM2VideoPredictor, library: Library) -> None:
        self.settings, self.predictor, self.library = settings, predictor, library
        self.model = ModelThread(predictor.device)
        self.sessions = SessionStore(settings.max_sessions, settings.session_seconds, self._release)
        self.budget = MemoryBudget.of(predictor, settings.session_megabytes)
        self._calls = SessionCalls(predictor, self.budget)
        self.is_closing = False

    def start_session(self, path: str) -> Session:
        """Opens a video of the library.

        Raises:
            NotFoundError: there is no such video.
            BusyError: too many sessions are open.
            BadInputError: the file cannot be read as a video.
        """
        session = Session(path, self.library.find(path))
        self.sessions.add(session)
        try:
            self._call(self._calls.open, session)
        except BaseException:
            self.sessions.close(session.id)
            raise
        session.touch()
        return session

    def close_session(self, session_id: str) -> bool:
        """Closes a session and cancels its track; returns whether the session existed."""
        return self.sessions.close(session_id)

    def add_points(
        self,
        session_id: str,
        frame: int,
        object_id: int,
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
        clear_old_points: bool,
    ) -> Mapping[int, ObjectMask]:
        """Adds points of an object, which may be new; returns the masks of all objects on the frame.

        Args:
            points, labels: see :func:`sam2fast.demo.server.prompt_limits.check_points`. No points with
                ``clear_old_points`` remove the earlier ones.

        Raises:
            NoSessionError: there is no such session.
            BadInputError: there is no such frame, or the points are invalid or too many.
        """
        session = self.sessions.use(session_id)
        if clear_old_points and not len(points) and not len(labels):
            return self.clear_points_in_frame(session_id, frame, object_id)
        return self._call(self._calls.add_points, session, frame, object_id, points, labels, clear_old_points)

    def clear_points_in_frame(self, session_id: str, frame: int, object_id: int) -> Mapping[int, ObjectMask]:
        """Removes an object's points on a frame; returns the masks of all objects there.

        Raises:
            NoSessionError, BadInputError: there is no such session, frame or object.
        """
        return self._call(self._calls.clear_points, self.sessions.use(session_id), frame, object_id)

    def clear_points_in_video(self, session_id: str) -> None:
        """Removes all objects and cancels the running track.

        Raises:
            NoSessionError: there is no such session.
        """
        self._call(self._calls.clear_video, self.sessions.use(session_id))

    def remove_object(self, session_id: str, object_id: int) -> dict[int, Mapping[int, ObjectMask]]:
        """Removes an object; returns the other objects' masks on the frames where it had points.

        An unknown object is not an error.

        Raises:
            NoSessionError: there is no such session.
        """
        return self._call(self._calls.remove_object, self.sessions.use(session_id), object_id)

    def track(self, session_id: str, start: int, direction: Direction = "both") -> Iterator[FrameMasks]:
        """Tracks all objects from a frame to the video's end, then back from that frame to the beginning.

        The start frame comes twice unless it is the first, as in the original. The session's running track is
        cancelled. Errors of the request are raised at once, not with the first frame.

        Args:
            direction: ``forward`` or ``backward`` for one direction only.

        Raises:
            NoSessionError, BadInputError: there is no such session, frame or direction.
            NothingToTrackError: an object has no points.
        """
        session = self.sessions.use(session_id)
        if direction not in get_args(Direction):
            raise BadInputError(
                f"there is no direction {shortened(direction)}; expected {', '.join(get_args(Direction))}"
            )
        return self._frames(session, self._call(self._calls.begin_track, session, start), start, direction)

    def cancel_track(self, session_id: str) -> None:
        """Cancels a session's track after the current frame.

        Raises:
            NoSessionError: there is no such session.
        """
        self.sessions.use(session_id).cancel_track()

    def close(self) -> None:
        """Closes all sessions and the model's thread."""
        self.is_closing = True
        self.sessions.close_all()
        self.model.close()

    def _frames(self, session: Session, track: TrackRun, start: int, direction: Direction) -> Iterator[FrameMasks]:
        directions = [
            reverse for reverse, name in ((False, "forward"), (True, "backward")) if direction in ("both", name)
        ]
        try:
            for reverse in directions:
                frames = self._calls.propagate(session, start, reverse)
                while (found := self._call(self._calls.next_frame, session, track, frames)) is not None:
                    session.touch()
                    yield found
        except NoSessionError:
            return  # the session was closed: the stream ends
        except Exception as error:
            if self.is_closing:
                return
            session.problem = "tracking failed; the server's log says more"
            if isinstance(error, DemoError | VideoError):
                session.problem = message_without_path(error, session.file)
            raise
        finally:
            session.end_track(track)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self.model.call(function, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise BusyError("the model's device is out of memory; try again when other sessions are closed") from error

    def _release(self, session: Session) -> None:
        try:
            self.model.call(session.release)
        except BusyError:
            _log.debug("session %s is freed when the process ends", session.id)
