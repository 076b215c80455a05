"""Defines strategies: their base class with SAM 2's own rule, the data that they receive, and their results."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules, select_memories

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base

NEAR = 64  # nearest frames of History.past, which may lack results


class MaskCandidates(NamedTuple):
    """Stores the decoder's predictions for B objects on one frame, on the device."""

    masks: Tensor  # (B, M, h, w) fp32 logits; -1024 everywhere for an absent object
    ious: Tensor  # (B, M) fp32, predicted
    scores: Tensor  # (B, 1) fp32, object score logits
    prompted: bool  # True on a prompt, False if tracked
    conditioning: bool  # True if the prompt makes a conditioning frame, False if it corrects a tracked frame
    image_size: int  # side of the model's input
    video_size: tuple[int, int]  # (height, width); zeros unless the strategy is ``at_video_size``
    # For objects that are tracked together. None on a prompt, and unless the strategy ``sees_others``.
    valid: Tensor | None = None  # (B, 1) bool, True if the row has an object: recorded steps may have more rows
    sharing: Tensor | None = None  # (B, B) bool, True for pairs of rows that compete for pixels

    def best(self) -> Tensor:
        """Returns the index ``(B, 1)`` int64 of the highest predicted IoU, the first of equal ones."""
        return self.ious.argmax(dim=1, keepdim=True)


class Decided(NamedTuple):
    """Stores a strategy's decisions for B objects on one frame, on the device."""

    candidate: Tensor  # (B, 1) int64
    state: Tensor | None = None  # (B, state_size) float64 for the next frame; None: unchanged
    record: Tensor | None = None  # (B, record_size) for :meth:`Strategy.attend`; None: zeros
    as_prompt: Tensor | None = None  # (B, 1) bool: encodes the memory from the binary mask, as for prompts
    parent: Tensor | None = None  # (B, 1) int64: hypothesis of the object that each row extends; None: its own
    masks: Tensor | None = None  # (B, 1, h, w) fp32 logits for results and memories; None: the candidates


class KeptResult(Protocol):
    """Result of one object on an earlier frame, on the CPU. Attributes wait until the frame is computed.

    Results of the frame before the last have always arrived.
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
        """The strategy's record ``(1, record_size)``. Zeros if it recorded nothing on the frame."""


class History(NamedTuple):
    """Stores the known data of one object before a frame is computed."""

    frame: int
    reverse: bool  # tracking goes backwards in time
    num_frames: int  # of the video
    conditioning: Mapping[int, KeptResult]  # results of prompted frames, by frame
    tracked: Mapping[int, KeptResult]  # results of other frames
    rules: MemoryRules  # of the model
    directions: Mapping[int, bool]  # of tracked frames: True if tracked backwards; missing frames were tracked forward

    @property
    def neighbour(self) -> int:
        """The frame before this one in the direction of tracking."""
        return self.frame + 1 if self.reverse else self.frame - 1

    @property
    def before(self) -> KeptResult | None:
        """The neighbour's result if it was prompted or tracked in this direction. The state comes from it."""
        if self.neighbour in self.conditioning:
            return self.conditioning[self.neighbour]
        return self.tracked.get(self.neighbour) if self.is_along(self.neighbour) else None

    def is_along(self, frame: int) -> bool:
        """Returns True if a frame was tracked in this direction."""
        return self.directions.get(frame, False) == self.reverse

    def distance(self, frame: int) -> int:
        """Returns how many frames ago ``frame`` was in the direction of tracking. Negative for frames ahead."""
        return frame - self.frame if self.reverse else self.frame - frame

    def past(self, step: int = 1) -> Iterator[int]:
        """Yields the neighbour and every ``step``-th frame beyond it, the nearest first.

        After the first 64 frames it yields only frames with results: a stream drops others.
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

    memories: list[tuple[int, int]]  # frame, row of the model's maskmem_tpos_enc
    pointers: list[tuple[int, int]]  # frame, distance
    span: int | None = None  # normalizer of distances; None: the model's, from the video's length
    factors: tuple[list[float], list[float]] | None = None  # of keys, per memory and per pointer; None: 1


class Strategy:
    """Selects masks and memories. The methods of this class are SAM 2's own rule, and strategies override them.

    An instance stores only settings, and serves any number of sessions, objects and threads. Per-object state is a
    tensor that the session stores with the result of each frame. The state is copied, saved, reset and removed with the
    object. A pass that begins at an earlier frame begins with the state of that frame. A prompt starts from zeros. So
    does a pass if the frame before its first one was not tracked in its direction.

    Attributes:
        presence: Logit above which an object counts as present, for its mask and its pointer. The memory encoder keeps
            the model's own threshold, 0.
        fill_hole_area: Replaces the predictor's setting, unless None.
        state_size: Number of values per object that the strategy keeps on the device.
        record_size: Number of values per object that it records on each frame for :meth:`attend`.
        has_span: True if :meth:`attend` sets the normalizer of distances. Used by ``dam4sam`` and ``d4sm``.
        has_factors: True if :meth:`attend` weights keys. Used by ``sam2long``.
        at_video_size: True if :meth:`choose` depends on the size of the video. Used by ``dam4sam`` and ``d4sm``.
        sees_others: True if :meth:`choose` compares objects that are tracked together and compete for pixels. Objects
            whose prompts overlap by more than a tenth of the smaller one are not compared: they are parts and wholes.
            Hypotheses with different numbers are not compared, either. Used by ``together``.
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
        """Returns True if the strategy takes part in the step on the device."""
        return type(self).choose is not Strategy.choose or self.presence != 0

    @property
    def looks_further(self) -> bool:
        """Returns True if it attends to frames beyond the model's reach, so that age is no reason to drop a frame."""
        return type(self).keep is not Strategy.keep

    @property
    def hypotheses(self) -> int:
        """Number of hypotheses of each object that are tracked on frames without a prompt. Used by ``sam2long``.

        If above 1, this many successive rows of :meth:`choose` belong to one object, and each has its own history.
        :meth:`choose` returns the ``parent`` that each row extends, and repeats it as the first value of the record.
        The first row is the best hypothesis. Its masks are returned: by a stream immediately, otherwise at the end of
        the pass. A prompt extends only the best hypothesis.
        """
        return 1

    def for_model(self, model: "SAM2Base") -> "Strategy":
        """Returns the strategy with settings that depend on the model."""
        return self

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        """Selects the mask of each object on one frame.

        It runs on the device and may be recorded: shapes and operations must not depend on values, and nothing may be
        read back. Rows are objects, or hypotheses of objects unless prompted. They must not influence each other unless
        the strategy ``sees_others``.

        Args:
            state: State ``(B, state_size)`` float64 after the neighbour. Zeros if there is none, and on a prompt.
        """
        return Decided(candidates.best())

    def attend(self, history: History) -> Attended:
        """Selects memories and pointers of one object. It runs on the CPU before the frame is computed."""
        frame, reverse, num_frames, conditioning, tracked, rules, _ = history
        return Attended(*select_memories(frame, conditioning, tracked, num_frames, reverse, rules))

    def keep(self, history: History) -> Collection[int]:
        """Returns the tracked frames that a stream has to keep for ``history.frame`` and later frames to attend to.

        ``history.frame`` was tracked, may be prompted next, and stays. Reading its result would wait for the device.
        """
        oldest = history.frame - history.rules.reach
        return [t for t in history.tracked if t >= oldest]


@dataclass(frozen=True)
class Sam2(Strategy):
    """The mask with the highest predicted IoU; the nearest memories, by a fixed stride; the nearest pointers."""
