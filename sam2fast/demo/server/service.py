"""What the demo does with the model, apart from how it is asked."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, ParamSpec, TypeVar, get_args

import torch

from sam2fast.demo.server.budget import Budget
from sam2fast.demo.server.errors import BadInputError, BusyError, DemoError, NoSessionError, shown, told
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.masks import ObjectMask
from sam2fast.demo.server.model_thread import ModelThread
from sam2fast.demo.server.session import Session, Track
from sam2fast.demo.server.session_calls import FrameMasks, SessionCalls
from sam2fast.demo.server.sessions import SessionStore
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io import VideoError

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Direction = Literal["both", "forward", "backward"]


class DemoService:
    """Sessions on videos of a library, with one model, which they use in turns.

    Every method may be called from any thread. One that fails has changed nothing.

    Args:
        predictor: for video; nobody else uses it meanwhile.
    """

    def __init__(self, settings: ServerSettings, predictor: SAM2VideoPredictor, library: Library) -> None:
        self.settings, self.predictor, self.library = settings, predictor, library
        self.model = ModelThread(predictor.device)
        self.sessions = SessionStore(settings.max_sessions, settings.session_seconds, self._release)
        self.budget = Budget.of(predictor, settings.session_megabytes)
        self._calls = SessionCalls(predictor, self.budget)
        self.is_closing = False

    def start_session(self, path: str) -> Session:
        """Opens a video of the library.

        Raises:
            NotFoundError: there is no such video.
            BusyError: too many sessions.
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
        """Ends a session and what it tracks; says whether there was one."""
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
        """Clicks on an object, which may be new; the masks of all objects on the frame.

        Args:
            points, labels: see :func:`sam2fast.demo.server.prompts.check_points`. No points, with
                ``clear_old_points``, take back those of before.

        Raises:
            NoSessionError: no such session.
            BadInputError: no such frame, or points without meaning, or too many.
        """
        session = self.sessions.use(session_id)
        if clear_old_points and not len(points) and not len(labels):
            return self.clear_points_in_frame(session_id, frame, object_id)
        return self._call(self._calls.add_points, session, frame, object_id, points, labels, clear_old_points)

    def clear_points_in_frame(self, session_id: str, frame: int, object_id: int) -> Mapping[int, ObjectMask]:
        """Takes back an object's points on a frame; the masks of all objects there.

        Raises:
            NoSessionError, BadInputError: no such session, frame or object.
        """
        return self._call(self._calls.clear_points, self.sessions.use(session_id), frame, object_id)

    def clear_points_in_video(self, session_id: str) -> None:
        """Forgets all objects, and ends what is tracked.

        Raises:
            NoSessionError: no such session.
        """
        self._call(self._calls.clear_video, self.sessions.use(session_id))

    def remove_object(self, session_id: str, object_id: int) -> dict[int, Mapping[int, ObjectMask]]:
        """Forgets an object; the others' masks on the frames where it had points. An unknown object is no error.

        Raises:
            NoSessionError: no such session.
        """
        return self._call(self._calls.remove_object, self.sessions.use(session_id), object_id)

    def track(self, session_id: str, start: int, direction: Direction = "both") -> Iterator[FrameMasks]:
        """Follows all objects from a frame to the video's end, then back from that frame to the beginning.

        The start frame comes twice, unless it is the first; in the original's order. Another track of the session is
        called off. What is wrong with the request is said at once, not when the first frame is asked for.

        Args:
            direction: ``forward`` or ``backward`` for only one of both.

        Raises:
            NoSessionError, BadInputError: no such session, frame or direction.
            NothingToTrackError: an object has no points.
        """
        session = self.sessions.use(session_id)
        if direction not in get_args(Direction):
            raise BadInputError(f"there is no direction {shown(direction)}; expected {', '.join(get_args(Direction))}")
        return self._frames(session, self._call(self._calls.begin_track, session, start), start, direction)

    def cancel_track(self, session_id: str) -> None:
        """Calls off what a session tracks; no frame comes after the one at hand.

        Raises:
            NoSessionError: no such session.
        """
        self.sessions.use(session_id).cancel_track()

    def close(self) -> None:
        """Ends everything: no sessions, no tracks, no turns."""
        self.is_closing = True
        self.sessions.close_all()
        self.model.close()

    def _frames(self, session: Session, track: Track, start: int, direction: Direction) -> Iterator[FrameMasks]:
        passes = [reverse for reverse, name in ((False, "forward"), (True, "backward")) if direction in ("both", name)]
        try:
            for reverse in passes:
                steps = self._calls.steps(session, start, reverse)
                while (found := self._call(self._calls.next_frame, session, track, steps)) is not None:
                    session.touch()
                    yield found
        except NoSessionError:
            return  # closed meanwhile: the end of the stream says it
        except Exception as error:
            if self.is_closing:
                return
            is_known = isinstance(error, DemoError | VideoError)
            session.problem = told(error, session.file) if is_known else "tracking failed; the server's log says more"
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
            _log.debug("session %s is freed with the process", session.id)
