"""Defines the base class of strategies, which implements SAM 2's rule, and the inputs and results of strategies."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules, select_memories

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base

NEAR = 64  # number of frames that History.past yields even if they have no results


class MaskCandidates(NamedTuple):
    """Stores the decoder's predictions for B objects on one frame, on the device."""

    masks: Tensor  # (B, M, h, w) fp32 logits; -1024 everywhere if the object is absent
    ious: Tensor  # (B, M) fp32, predicted IoUs
    scores: Tensor  # (B, 1) fp32, object score logits
    prompted: bool  # True for a prompt, False for tracking
    conditioning: bool  # True if the prompt makes the frame a conditioning frame, False for a correction
    image_size: int  # side of the model's input
    video_size: tuple[int, int]  # (height, width); zeros unless the strategy is ``at_video_size``
    # Fields to compare objects that are tracked together. Both are None for prompts, and for strategies without
    # ``sees_others``.
    valid: Tensor | None = None  # (B, 1) bool, True for rows of objects, False for padding rows of recorded steps
    sharing: Tensor | None = None  # (B, B) bool, True for pairs of rows that compete for pixels

    def best(self) -> Tensor:
        """Returns indices ``(B, 1)`` int64 of the highest predicted IoUs. Among equal IoUs, the first counts."""
        return self.ious.argmax(dim=1, keepdim=True)


class Decided(NamedTuple):
    """Stores a strategy's decisions for B objects on one frame, on the device."""

    candidate: Tensor  # (B, 1) int64, index of the selected mask
    state: Tensor | None = None  # (B, state_size) float64, state for the next frame; None: unchanged
    record: Tensor | None = None  # (B, record_size) for :meth:`Strategy.attend`; None: zeros
    as_prompt: Tensor | None = None  # (B, 1) bool, True to encode the memory from the binary mask, as for prompts
    parent: Tensor | None = None  # (B, 1) int64, index of the hypothesis that each row extends; None: the row itself
    masks: Tensor | None = None  # (B, 1, h, w) fp32 logits for results and memories; None: the selected candidates


class KeptResult(Protocol):
    """Result of one object on an earlier frame, on the CPU. Each property waits until the result is copied.

    Only the copy of the last tracked frame's result may still be in progress.
    """

    @property
    def mask(self) -> Tensor:
        """Low-resolution logits ``(1, 1, h, w)``."""

    @property
    def iou(self) -> Tensor:
        """Predicted IoU ``(1, 1)``."""

    @property
    def score(self) -> Tensor:
        """Object score logit ``(1, 1)``."""

    @property
    def record(self) -> Tensor:
        """The strategy's record ``(1, record_size)``. Zeros if the strategy recorded nothing on the frame."""


class History(NamedTuple):
    """Stores the data of one object before a frame is tracked."""

    frame: int
    reverse: bool  # True if tracking goes backwards in time
    num_frames: int  # length of the video
    conditioning: Mapping[int, KeptResult]  # results of prompted frames, by frame
    tracked: Mapping[int, KeptResult]  # results of other frames, by frame
    rules: MemoryRules  # settings of the model's memory selection
    directions: Mapping[int, bool]  # True for frames that were tracked backwards; missing frames were tracked forwards

    @property
    def neighbour(self) -> int:
        """Number of the previous frame in the direction of tracking."""
        return self.frame + 1 if self.reverse else self.frame - 1

    @property
    def before(self) -> KeptResult | None:
        """Result of the neighbour, or None unless the neighbour was prompted or tracked in this direction."""
        if self.neighbour in self.conditioning:
            return self.conditioning[self.neighbour]
        return self.tracked.get(self.neighbour) if self.is_along(self.neighbour) else None

    def is_along(self, frame: int) -> bool:
        """Returns True if ``frame`` was tracked in the direction of tracking."""
        return self.directions.get(frame, False) == self.reverse

    def distance(self, frame: int) -> int:
        """Returns the distance of ``frame`` against the direction of tracking, negative for frames ahead."""
        return frame - self.frame if self.reverse else self.frame - frame

    def past(self, step: int = 1) -> Iterator[int]:
        """Yields the neighbour and every ``step``-th frame before it in the direction of tracking, nearest first.

        After the first 64 frames, yields only frames with results.
        """
        end, by = (self.num_frames, step) if self.reverse else (-1, -step)
        frames = range(self.neighbour, end, by)
        yield from frames[:NEAR]
        further = frames[NEAR:]
        if len(self.tracked) + len(self.conditioning) < len(further):
            known = {*self.tracked, *self.conditioning}
            yield from sorted((t for t in known if t in further), reverse=not self.reverse)
        else:
            yield from (t for t in further if t in self.tracked or t in self.conditioning)


class Attended(NamedTuple):
    """Stores the memories and pointers that one object attends to on a frame, conditioning frames first."""

    memories: list[tuple[int, int]]  # pairs of a frame and a row of the model's maskmem_tpos_enc
    pointers: list[tuple[int, int]]  # pairs of a frame and a temporal distance
    span: int | None = None  # normalizer of distances; None: the model's normalizer, from the video's length
    factors: tuple[list[float], list[float]] | None = None  # factors of attention keys, per memory and pointer; None: 1


class Strategy:
    """Selects masks and memories. The methods of this class implement SAM 2's rule. Subclasses override methods.

    An instance stores only settings, so any number of sessions, objects and threads can share it. Per-object state is a
    tensor that the session stores with the result of each frame. The state is copied, saved, reset and removed with the
    object. A prompt starts from a state of zeros. A tracked frame starts from the state of the previous frame in the
    direction of tracking, or from zeros if the previous frame was neither prompted nor tracked in this direction.

    Attributes:
        presence: Object score logit above which an object's mask and pointer count as present. The memory encoder uses
            the model's threshold 0.
        fill_hole_area: Replacement for the predictor's ``fill_hole_area``, or None.
        state_size: Number of state values per object, on the device.
        record_size: Number of values per object that :meth:`choose` records on each frame for :meth:`attend`.
        has_span: True if :meth:`attend` sets the normalizer of distances. Used by ``dam4sam`` and ``d4sm``.
        has_factors: True if :meth:`attend` weights attention keys. Used by ``sam2long``.
        at_video_size: True if :meth:`choose` depends on the size of the video. Used by ``dam4sam`` and ``d4sm``.
        sees_others: True if :meth:`choose` compares objects that are tracked together and compete for pixels. Objects
            are not compared if their prompts overlap by more than a tenth of the smaller prompt, such as a part and its
            whole. Only hypotheses with the same index are compared. Used by ``together``.
    """

    presence: ClassVar[float] = 0.0
    fill_hole_area: ClassVar[float | None] = None
    state_size: ClassVar[int] = 0
    record_size: ClassVar[int] = 0
    has_span: ClassVar[bool] = False
    has_factors: ClassVar[bool] = False
    at_video_size: ClassVar[bool] = False
    sees_others: ClassVar[bool] = False

    @property
    def decides(self) -> bool:
        """Returns True if the strategy changes the prediction on the device."""
        return type(self).choose is not Strategy.choose or self.presence != 0

    @property
    def looks_further(self) -> bool:
        """Returns True if the strategy attends to frames beyond the model's reach, so that old frames must be kept."""
        return type(self).keep is not Strategy.keep

    @property
    def hypotheses(self) -> int:
        """Number of hypotheses of each object on frames without a prompt. Used by ``sam2long``.

        If the number n is above 1, n successive rows of :meth:`choose` are the hypotheses of one object, each with its
        own history. :meth:`choose` returns the ``parent`` that each row extends, and repeats the parent as the first
        value of the record. The first row is the best hypothesis. A stream returns masks of the best hypothesis
        immediately, ``propagate_in_video`` at the end of the pass. A prompt extends only the best hypothesis.
        """
        return 1

    def for_model(self, model: "SAM2Base") -> "Strategy":
        """Returns the strategy with settings for this model."""
        return self

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        """Selects the mask of each object on one frame.

        This method runs on the device and may be captured in a CUDA graph: shapes and operations must not depend on
        values, and the method must not synchronize. Each row is an object or, on frames without a prompt, a hypothesis
        of an object. Unless the strategy ``sees_others``, rows must not influence each other.

        Args:
            candidates: The decoder's predictions.
            state: State ``(B, state_size)`` float64 after the previous frame. The state is zero for a prompt, or if the
                previous frame has no state.
        """
        return Decided(candidates.best())

    def attend(self, history: History) -> Attended:
        """Selects memories and pointers for one object. Runs on the CPU before the frame is tracked."""
        frame, reverse, num_frames, conditioning, tracked, rules, _ = history
        return Attended(*select_memories(frame, conditioning, tracked, num_frames, reverse, rules))

    def keep(self, history: History) -> Collection[int]:
        """Returns the tracked frames that ``history.frame`` or later frames may attend to, to keep in a stream.

        ``history.frame`` itself was just tracked and is always kept. Reading the result of ``history.frame`` waits for
        the device.
        """
        oldest = history.frame - history.rules.reach
        return [t for t in history.tracked if t >= oldest]


@dataclass(frozen=True)
class Sam2(Strategy):
    """SAM 2's rule: the mask with the highest predicted IoU, and the nearest memories (by a stride) and pointers."""
