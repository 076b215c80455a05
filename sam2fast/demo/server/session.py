"""One client's work on one video."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from sam2fast.demo.server.errors import NoSessionError
from sam2fast.demo.server.masks import ObjectMask
from sam2fast.tracking.state import VideoState


class Track:
    """One pass over a video, or both; it can be called off from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """No frame is begun after this."""
        self._cancelled.set()


class Session:
    """What is known of a video's objects. State and masks change in the model's thread only.

    Attributes:
        id: what the client calls it.
        path: of the video, as in the gallery.
        file: of the video.
        masks: by frame and object, what was last found on each frame that was tracked or prompted.
        tracked: the frames that a track has reached.
        problem: why the last track ended before its time, if it did.
    """

    def __init__(self, path: str, file: Path) -> None:
        self.id = str(uuid4())
        self.path, self.file = path, file
        self.masks: dict[int, Mapping[int, ObjectMask]] = {}
        self.tracked: set[int] = set()
        self.problem: str | None = None
        self.is_closed = False
        self._state: VideoState | None = None
        self._track: Track | None = None
        self._last_use = time.monotonic()
        self._lock = threading.Lock()

    @property
    def state(self) -> VideoState:
        """The video's, with all that was found.

        Raises:
            NoSessionError: the session was closed meanwhile.
        """
        state = self._state
        if state is None:
            raise NoSessionError(self.id)
        return state

    def open(self, state: VideoState) -> None:
        """Begins with this state."""
        self._state = state

    def touch(self) -> None:
        """Counts as a use."""
        self._last_use = time.monotonic()

    def idle_seconds(self) -> float:
        """Since the last use."""
        return time.monotonic() - self._last_use

    @property
    def is_tracking(self) -> bool:
        return self._track is not None

    def begin_track(self) -> Track:
        """A track in the place of the one that may be under way."""
        track = Track()
        with self._lock:
            if self._track is not None:
                self._track.cancel()
            self._track, self.problem = track, None
        return track

    def end_track(self, track: Track) -> None:
        """This track has ended, if it was not replaced before."""
        with self._lock:
            if self._track is track:
                self._track = None

    def cancel_track(self) -> None:
        """Calls off what is under way, if anything is."""
        with self._lock:
            if self._track is not None:
                self._track.cancel()

    def close(self) -> None:
        """Nothing is begun after this; :meth:`release` frees the memory."""
        self.is_closed = True
        self.cancel_track()

    def release(self) -> None:
        """Frees everything; in the model's thread."""
        state, self._state = self._state, None
        self.masks, self.tracked = {}, set()
        if state is not None:
            state.clear()
            state.features.clear()
            state.frames.close()
