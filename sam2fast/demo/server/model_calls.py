"""The calls on sessions that run in the model's thread."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.compat.video_state import VideoState
from sam2fast.demo.server.demo_errors import (
    BadInputError,
    NoSessionError,
    NothingToTrackError,
    message_without_path,
)
from sam2fast.demo.server.frame_masks import FrameMasks, ObjectMask, ProposedMask, encode_candidates, encode_frame
from sam2fast.demo.server.jobs import Report
from sam2fast.demo.server.photos import is_photo, model_input, read_photo
from sam2fast.demo.server.prompt_limits import MemoryBudget, check_points
from sam2fast.demo.server.sessions import Session
from sam2fast.find import Match, Reference, find
from sam2fast.io.rle import RLE, decode_rle
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.outputs import Output, TrackScores
from sam2fast.tracking.session import TrackedObject, UnchangedOnError
from sam2fast.video_io import VideoError

GRID = 16  # points along a side of the image, where everything is looked for
LEAST_IOU, LEAST_STABILITY = 0.7, 0.85  # less than by default: people choose among the masks
PREPARED = 4  # photographs that are encoded before they are opened
MOST_SIMILAR = 6  # candidates of a photograph
KEPT_REFERENCES = 64
SPECKS = 4  # low-resolution pixels of the holes and islands that are removed there


class TrackPlan(NamedTuple):
    """The frames and objects of a track. ``end`` is None for the end of the video, and ``objects`` None for all."""

    start: int
    end: int | None = None
    objects: Collection[int] | None = None


class LabelledMask(NamedTuple):
    """An object of a photograph, with at least one pixel."""

    file: Path
    rle: RLE


class Clicks(NamedTuple):
    """Points and their labels; see :func:`sam2fast.demo.server.prompt_limits.check_points`."""

    points: Sequence[Sequence[float]]
    labels: Sequence[int]


class SessionCalls:
    """Operations on one session's video, to be run in the model's thread. A failed call changes nothing.

    Methods raise BadInputError if there is no such frame or object, or an argument is invalid, and TooManyError if
    there is no room for another object or prompt.
    """

    def __init__(self, predictor: SAM2VideoPredictor, budget: MemoryBudget) -> None:
        self._predictor, self._budget = predictor, budget
        self._prepared: dict[str, VideoState] = {}  # by path
        self._references: dict[tuple[Path, str], Reference] = {}  # by photograph and run lengths

    def open(self, session: Session) -> None:
        """Opens the session's video, unless the session was closed while it waited."""
        if session.is_closed:
            raise NoSessionError(session.id)
        prepared = self._prepared.pop(session.path, None)  # strategies do not matter: it has one frame
        session.open(prepared or self._open(session.path, session.file, session.strategy))

    def prepare(self, path: str, file: Path) -> None:
        """Encodes a photograph for the next session on it. The newest few are kept."""
        if path not in self._prepared:
            self._prepared[path] = self._open(path, file)
        if len(self._prepared) > PREPARED:
            del self._prepared[next(iter(self._prepared))]

    def _open(self, path: str, file: Path, strategy: str | None = None) -> VideoState:
        try:
            return self._predictor.init_state([model_input(file)] if is_photo(file) else file, strategy=strategy)
        except (VideoError, OSError) as error:
            reason = message_without_path(error, file)
            raise BadInputError(f"{path} cannot be read as a video: {reason}") from error

    def add_points(
        self,
        session: Session,
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
        """
        if clear_old_points and not len(points) and not len(labels):
            return self.clear_points(session, frame, object_id)
        state = session.state
        _check_frame(state, frame)
        tracked = state.objects.get(object_id)
        before = tracked.points.get(frame) if tracked is not None and not clear_old_points else None
        check_points(points, labels, 0 if before is None else before["point_labels"].shape[1])
        self._budget.check_room(state, frame, object_id)
        with UnchangedOnError(state, state.objects.values()):  # also if the masks cannot be encoded
            try:
                _, ids, logits = self._predictor.add_new_points_or_box(
                    state,
                    frame,
                    object_id,
                    points,
                    labels,
                    clear_old_points=clear_old_points,
                    normalize_coords=False,
                )
            except ValueError as error:
                raise BadInputError(str(error)) from error
            self._budget.share(state)
            return self._update_masks(session, frame, ids, logits)

    def preview(
        self, session: Session, ticket: int | None, frame: int, object_id: int, clicks: Clicks, refine: bool
    ) -> list[ProposedMask]:
        """The masks that the model proposes for clicks, the best first; changes nothing.

        Args:
            ticket: of :meth:`Session.next_preview`; a request that a newer one has replaced is not computed.
                With None it always is.
            object_id: the object, which may be new.
            clicks: all clicks of the object on the frame.
            refine: they refine the object's mask there, otherwise they replace its prompts.
        """
        if ticket not in (None, session.newest_preview):
            return []
        state = session.state
        _check_frame(state, frame)
        check_points(clicks.points, clicks.labels)
        try:
            found = self._predictor.propose_masks(
                state, frame, object_id, *clicks, refine=refine, normalize_coords=False
            )
        except ValueError as error:
            raise BadInputError(str(error)) from error
        return encode_candidates(found, state.video_size)

    def everything(self, session: Session, report: Report) -> list[ProposedMask]:
        """The masks of all that is seen in the session's photograph, the largest first; changes nothing.

        Args:
            report: receives the share of the points that are done, and may raise CancelledError.
        """
        report(0)
        generator = SAM2AutomaticMaskGenerator(
            self._predictor,
            points_per_side=GRID,
            pred_iou_thresh=LEAST_IOU,
            stability_score_thresh=LEAST_STABILITY,
            min_mask_region_area=SPECKS,
            output_mode="coco_rle",
            progress=lambda done, total: report(done / total),
        )
        found = sorted(generator.generate(read_photo(session.file)), key=lambda record: -record["area"])
        return [ProposedMask(record["segmentation"], record["predicted_iou"], 0.0) for record in found]

    def add_mask(self, session: Session, frame: int, object_id: int, mask: NDArray[np.bool_]) -> None:
        """Sets an object's mask on a frame as its prompt there, in place of earlier ones; the object may be new.

        Args:
            mask: ``(H, W)`` of the video's size, with at least one pixel inside.
        """
        state = session.state
        _check_frame(state, frame)
        if mask.shape != state.video_size:
            raise BadInputError(f"the mask has the size {list(mask.shape)}; expected {list(state.video_size)}")
        if not mask.any():
            raise BadInputError("the mask is empty; expected at least one pixel inside")
        self._budget.check_room(state, frame, object_id)
        with UnchangedOnError(state, state.objects.values()):
            _, ids, logits = self._predictor.add_new_mask(state, frame, object_id, mask)
            self._budget.share(state)
            self._update_masks(session, frame, ids, logits)

    def find_similar(self, labelled: Sequence[LabelledMask], file: Path, report: Report) -> list[Match]:
        """Finds objects of a photograph that look like labelled ones, the most alike first.

        Args:
            labelled: Labelled objects. The newest ones are not encoded again.
            report: Function that receives the share of the photographs that are encoded, and may raise CancelledError.
        """
        predictor, references = SAM2ImagePredictor(self._predictor), list[Reference]()
        for done, one in enumerate(labelled):
            report(done / (len(labelled) + 1))
            key = one.file, one.rle["counts"]
            reference = self._references.pop(key, None)
            references.append(reference or Reference(predictor, read_photo(one.file), decode_rle(one.rle)))
            self._references[key] = references[-1]
        for key in [*self._references][:-KEPT_REFERENCES]:
            del self._references[key]
        report(len(labelled) / (len(labelled) + 1))
        return find(predictor, references, read_photo(file), MOST_SIMILAR)

    def mask_logits(
        self, session: Session, frames: Collection[int] | None = None
    ) -> dict[int, dict[int, list[Tensor]]]:
        """For each frame and object, the low-resolution logits ``(1, h, w)`` that its mask may have been made of.

        Args:
            frames: frames of the result; None for all that have masks.
        """
        found: dict[int, dict[int, list[Tensor]]] = {}
        for object_id, tracked in session.state.objects.items():
            for frame in session.masks if frames is None else session.masks.keys() & frames:
                results = {id(result): result for c in (True, False) if (result := tracked.result_on(frame, c))}
                found.setdefault(frame, {})[object_id] = [result.mask[0].cpu() for result in results.values()]
        return found

    def clear_points(self, session: Session, frame: int, object_id: int) -> Mapping[int, ObjectMask]:
        """Removes an object's points on a frame; returns the masks of all objects there.

        The running track is cancelled if the object has no others: nothing shows where it is.
        """
        state = session.state
        _check_frame(state, frame)
        _check_object(state, object_id)
        had_points = _is_prompted(state.objects[object_id], frame)
        with UnchangedOnError(state, state.objects.values()):
            answer = self._predictor.clear_all_prompts_in_frame(state, frame, object_id)
            assert answer is not None
            masks = self._update_masks(session, frame, *answer[1:], cleared=object_id if had_points else None)
        _drop_unprompted(session, frame)
        if not (state.objects[object_id].points or state.objects[object_id].masks):
            session.cancel_track()
        return masks

    def clear_video(self, session: Session) -> None:
        """Removes all objects and cancels the running track."""
        session.cancel_track()
        self._predictor.reset_state(session.state)
        session.masks, session.tracked = {}, set()

    def remove_object(self, session: Session, object_id: int) -> dict[int, Mapping[int, ObjectMask]]:
        """Removes an object, if it is known. Returns the others' masks on the frames where it had points."""
        state = session.state
        ids, updated = self._predictor.remove_object(state, object_id)
        for frame, masks in list(session.masks.items()):
            session.masks[frame] = {i: mask for i, mask in masks.items() if i != object_id}
        changed = {frame: self._update_masks(session, frame, ids, logits) for frame, logits in updated}
        for frame in changed:
            _drop_unprompted(session, frame)
        if not state.objects:
            self.clear_video(session)
        return changed

    def begin_track(self, session: Session, plan: TrackPlan) -> Event:
        """Replaces the running track; see :meth:`Session.begin_track`. Raises NothingToTrackError without points."""
        _check_frame(session.state, plan.start)
        if plan.end is not None:
            _check_frame(session.state, plan.end)
        for object_id in plan.objects or ():
            _check_object(session.state, object_id)
        if not session.state.objects:
            raise NothingToTrackError("there is nothing to track: click on something first")
        for object_id, tracked in session.state.objects.items():
            if not tracked.conditioning and not tracked.new_conditioning:
                raise NothingToTrackError(f"object {object_id} has no points to track it from; give some, or remove it")
        self._predictor.propagate_in_video_preflight(session.state)
        return session.begin_track()

    def propagate(self, session: Session, plan: TrackPlan, reverse: bool) -> Iterator[tuple[Any, ...]]:
        """An iterator over the frames of one direction for :meth:`next_frame`; computes nothing yet."""
        ids = plan.objects
        if ids is not None:  # without objects that were removed in the meantime
            ids = [i for i in ids if i in session.state.objects]
            if not ids:
                return
        # Logits are resized to the video only where the model removes overlaps in them.
        output: Output = "logits" if self._predictor.non_overlap_masks else "low_res"
        count = None if plan.end is None else abs(plan.end - plan.start)
        yield from self._predictor.propagate_in_video(
            session.state,
            plan.start,
            count,
            reverse=reverse,
            progress=False,
            output=output,
            return_scores=True,
            obj_ids=ids,
        )

    def next_frame(self, session: Session, track: Event, frames: Iterator[tuple[Any, ...]]) -> FrameMasks | None:
        """The next frame of a track; None at its end or after it was cancelled."""
        found = None if track.is_set() or session.is_closed else next(frames, None)
        if found is None:
            return None
        frame, ids, logits, scores = found
        masks = self._update_masks(session, frame, ids, logits, scores=scores)
        session.tracked.add(frame)
        return frame, {object_id: masks[object_id] for object_id in ids}

    def _update_masks(
        self,
        session: Session,
        frame: int,
        ids: Sequence[int],
        logits: Tensor,
        cleared: int | None = None,
        scores: TrackScores | None = None,
    ) -> Mapping[int, ObjectMask]:
        """Stores and returns the masks of all objects on a frame.

        The predictor returns no mask of objects whose results on the frame were dropped to save memory, or that were
        added after the track began. Their earlier masks stay, except for ``cleared``, whose points were removed.
        """
        found, earlier = encode_frame(ids, logits, session.state.video_size, scores), session.masks.get(frame, {})
        masks = {}
        for object_id, tracked in session.state.objects.items():
            has_result = any(tracked.result_on(frame, conditioning) is not None for conditioning in (True, False))
            is_new = object_id in found and (object_id == cleared or has_result)
            source = found if is_new or object_id not in earlier else earlier
            if object_id in source:
                masks[object_id] = source[object_id]
        session.masks[frame] = masks
        return masks


def _is_prompted(tracked: TrackedObject, frame: int) -> bool:
    return frame in tracked.points or frame in tracked.masks


def _drop_unprompted(session: Session, frame: int) -> None:
    """Drops the masks of a frame that is neither tracked nor prompted any more."""
    prompted = any(_is_prompted(tracked, frame) for tracked in session.state.objects.values())
    if frame not in session.tracked and not prompted:
        session.masks.pop(frame, None)


def _check_object(state: VideoState, object_id: int) -> None:
    if object_id not in state.objects:
        ids = ", ".join(map(str, state.objects)) or "none"
        raise BadInputError(f"there is no object {object_id} in this session; the objects are: {ids}")


def _check_frame(state: VideoState, frame: int) -> None:
    if not 0 <= frame < state.num_frames:
        raise BadInputError(f"there is no frame {frame} in this video; its frames are 0 to {state.num_frames - 1}")
