"""What is done to one session's video, all of it in the model's thread."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from sam2fast.demo.server.budget import Budget
from sam2fast.demo.server.errors import BadInputError, NoSessionError, NothingToTrackError, told
from sam2fast.demo.server.masks import ObjectMask, encode_frame
from sam2fast.demo.server.prompts import check_points
from sam2fast.demo.server.session import Session, Track
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.outputs import Output
from sam2fast.tracking.state import TrackedObject, UnchangedOnError, VideoState
from sam2fast.video_io import VideoError

FrameMasks = tuple[int, Mapping[int, ObjectMask]]


class SessionCalls:
    """The model's side of the service; see :class:`~sam2fast.demo.server.service.DemoService` for what is raised.

    Args:
        predictor: for video.
        budget: of each session.
    """

    def __init__(self, predictor: SAM2VideoPredictor, budget: Budget) -> None:
        self._predictor, self._budget = predictor, budget

    def open(self, session: Session) -> None:
        """Opens the session's video, unless it was closed while it waited for its turn."""
        if session.is_closed:
            raise NoSessionError(session.id)
        try:
            state = self._predictor.init_state(session.file)
        except (VideoError, OSError) as error:
            raise BadInputError(f"{session.path} cannot be read as a video: {told(error, session.file)}") from error
        session.open(state)

    def add_points(
        self,
        session: Session,
        frame: int,
        object_id: int,
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
        clear_old_points: bool,
    ) -> Mapping[int, ObjectMask]:
        """Clicks on an object; the masks of all objects on the frame."""
        state = session.state
        _check_frame(state, frame)
        known = state.objects.get(object_id)
        before = known.points.get(frame) if known is not None and not clear_old_points else None
        checked = check_points(points, labels, 0 if before is None else before["point_labels"].shape[1])
        self._budget.check_room(state, frame, object_id)
        with UnchangedOnError(state, state.objects.values()):  # also where its masks cannot be told
            try:
                _, ids, logits = self._predictor.add_new_points_or_box(
                    state,
                    frame,
                    object_id,
                    checked.points,
                    checked.labels,
                    clear_old_points=clear_old_points,
                    normalize_coords=False,
                )
            except ValueError as error:
                raise BadInputError(str(error)) from error
            self._budget.share(state)
            return self._keep(session, frame, ids, logits)

    def clear_points(self, session: Session, frame: int, object_id: int) -> Mapping[int, ObjectMask]:
        """Takes back an object's points on a frame; the masks of all objects there."""
        state = session.state
        _check_frame(state, frame)
        if object_id not in state.objects:
            ids = ", ".join(map(str, state.objects)) or "none"
            raise BadInputError(f"there is no object {object_id} in this session; the objects are: {ids}")
        had_points = frame in state.objects[object_id].points
        with UnchangedOnError(state, state.objects.values()):
            answer = self._predictor.clear_all_prompts_in_frame(state, frame, object_id)
            assert answer is not None
            masks = self._keep(session, frame, *answer[1:], taken_back=object_id if had_points else None)
        _drop_unprompted(session, frame)
        return masks

    def clear_video(self, session: Session) -> None:
        """Forgets all objects, and ends what is tracked."""
        session.cancel_track()
        self._predictor.reset_state(session.state)
        session.masks, session.tracked = {}, set()

    def remove_object(self, session: Session, object_id: int) -> dict[int, Mapping[int, ObjectMask]]:
        """Forgets an object; the others' masks on the frames where it had points."""
        state = session.state
        ids, updated = self._predictor.remove_object(state, object_id)
        for frame, masks in list(session.masks.items()):
            session.masks[frame] = {i: mask for i, mask in masks.items() if i != object_id}
        changed = {frame: self._keep(session, frame, ids, logits) for frame, logits in updated}
        for frame in changed:
            _drop_unprompted(session, frame)
        if not state.objects:
            self.clear_video(session)
        return changed

    def begin_track(self, session: Session, start: int) -> Track:
        """Checks that all objects can be tracked, and takes the place of the track under way."""
        _check_frame(session.state, start)
        if not session.state.objects:
            raise NothingToTrackError("there is nothing to track: click on something first")
        for object_id, tracked in session.state.objects.items():
            if not tracked.conditioning and not tracked.new_conditioning:
                raise NothingToTrackError(f"object {object_id} has no points to track it from; give some, or remove it")
        self._predictor.propagate_in_video_preflight(session.state)
        return session.begin_track()

    def steps(self, session: Session, start: int, reverse: bool) -> Iterator[tuple[Any, ...]]:
        """A pass over the video, for :meth:`next_frame`; nothing is computed yet."""
        # Logits at the video's size only where the model is asked to keep objects apart in them.
        output: Output = "logits" if self._predictor.non_overlap_masks else "low_res"
        return self._predictor.propagate_in_video(session.state, start, reverse=reverse, progress=False, output=output)

    def next_frame(self, session: Session, track: Track, steps: Iterator[tuple[Any, ...]]) -> FrameMasks | None:
        """The next frame of a track; none at its end, or when it was called off."""
        found = None if track.is_cancelled or session.is_closed else next(steps, None)
        if found is None:
            return None
        frame, ids, logits = found
        kept = self._keep(session, frame, ids, logits)
        session.tracked.add(frame)
        return frame, {object_id: kept[object_id] for object_id in ids}

    def _keep(
        self, session: Session, frame: int, ids: Sequence[int], logits: Tensor, taken_back: int | None = None
    ) -> Mapping[int, ObjectMask]:
        """The masks of all objects on a frame, which are remembered.

        An answer of the predictor has nothing of objects whose results there were forgotten to make room, or that are
        newer than the track that asks: what was found of these before stays, unless their points were taken back.
        """
        found, earlier = encode_frame(ids, logits, session.state.video_size), session.masks.get(frame, {})
        masks = {}
        for object_id, tracked in session.state.objects.items():
            is_told = object_id in found and (object_id == taken_back or _has_result(tracked, frame))
            source = found if is_told or object_id not in earlier else earlier
            if object_id in source:
                masks[object_id] = source[object_id]
        session.masks[frame] = masks
        return masks


def _has_result(tracked: TrackedObject, frame: int) -> bool:
    return any(tracked.result_on(frame, conditioning) is not None for conditioning in (True, False))


def _drop_unprompted(session: Session, frame: int) -> None:
    """Forgets the masks of a frame that is neither tracked nor prompted any more."""
    prompted = any(frame in tracked.points for tracked in session.state.objects.values())
    if frame not in session.tracked and not prompted:
        session.masks.pop(frame, None)


def _check_frame(state: VideoState, frame: int) -> None:
    if not 0 <= frame < state.num_frames:
        raise BadInputError(f"there is no frame {frame} in this video; its frames are 0 to {state.num_frames - 1}")
