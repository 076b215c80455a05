"""What a tracking strategy receives, and what it decides."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules, select_memories

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base

NEAR = 64  # frames of History.past that may have no results


class MaskCandidates(NamedTuple):
    """What the decoder predicts for B objects on one frame, on the device."""

    masks: Tensor  # (B, M, h, w) fp32 logits; -1024 everywhere for an absent object
    ious: Tensor  # (B, M) fp32, predicted
    scores: Tensor  # (B, 1) fp32, logits of the objects' presence
    prompted: bool  # by a prompt, rather than tracked
    conditioning: bool  # the prompt makes the frame a conditioning one; False for a correction of a tracked frame
    image_size: int  # side of the model's input
    video_size: tuple[int, int]  # (height, width); zeros unless the strategy is ``at_video_size``
    # Of objects that are tracked together; None on a prompt, and unless the strategy ``sees_others``.
    valid: Tensor | None = None  # (B, 1) bool: the row holds an object; a recorded step may have more rows than objects
    sharing: Tensor | None = None  # (B, B) bool: pairs of rows whose pixels are one's or the other's

    def best(self) -> Tensor:
        """``(B, 1)`` int64: the candidate with the highest predicted IoU, the first of equals."""
        return self.ious.argmax(dim=1, keepdim=True)


class Decided(NamedTuple):
    """What a strategy decides for B objects on one frame, on the device."""

    candidate: Tensor  # (B, 1) int64
    state: Tensor | None = None  # (B, state_size) float64, which the next frame receives; None: as it was
    record: Tensor | None = None  # (B, record_size), which the host can read later; None: zeros
    as_prompt: Tensor | None = None  # (B, 1) bool: the memory is encoded from the binary mask, as a prompt's
    parent: Tensor | None = None  # (B, 1) int64: the hypothesis of the object that each row continues; None: its own
    masks: Tensor | None = None  # (B, 1, h, w) fp32 logits, which are shown and remembered; None: the candidates'


class KeptResult(Protocol):
    """One object's result on an earlier frame, on the CPU. Reading a part waits until the frame is computed.

    Those of the frame before the last have always arrived.
    """

    @property
    def mask(self) -> Tensor:
        """``(1, 1, h, w)`` low-resolution logits."""
        ...

    @property
    def iou(self) -> Tensor:
        """``(1, 1)`` predicted."""
        ...

    @property
    def score(self) -> Tensor:
        """``(1, 1)`` logit of the object's presence."""
        ...

    @property
    def record(self) -> Tensor:
        """``(1, record_size)``: what the strategy recorded; zeros on a frame where it recorded nothing."""
        ...


class History(NamedTuple):
    """What is known of one object before a frame is computed."""

    frame: int
    reverse: bool  # tracking goes backwards in time
    num_frames: int  # of the video
    conditioning: Mapping[int, KeptResult]  # of prompted frames, by frame
    tracked: Mapping[int, KeptResult]  # of other frames; in none of ``conditioning``
    rules: MemoryRules  # of the model
    directions: Mapping[int, bool]  # of tracked frames: whether tracking went backwards; forward if a frame is missing

    @property
    def neighbour(self) -> int:
        """The frame that was tracked before this one, if it was."""
        return self.frame + 1 if self.reverse else self.frame - 1

    @property
    def before(self) -> KeptResult | None:
        """The neighbour's result, if it was prompted or tracked in the same direction: what the state comes from."""
        if self.neighbour in self.conditioning:
            return self.conditioning[self.neighbour]
        return self.tracked.get(self.neighbour) if self.is_along(self.neighbour) else None

    def is_along(self, frame: int) -> bool:
        """Whether a frame was tracked in this direction."""
        return self.directions.get(frame, False) == self.reverse

    def distance(self, frame: int) -> int:
        """How many frames ago another frame was in the direction of tracking; below 0 if it is still to come."""
        return frame - self.frame if self.reverse else self.frame - frame

    def past(self, step: int = 1) -> Iterator[int]:
        """The neighbour and every ``step``-th frame beyond it, the nearest first; after the first 64 only frames with
        results, which may be few of many: a stream keeps what is needed."""
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
    """What one object attends to on a frame: conditioning frames first."""

    memories: list[tuple[int, int]]  # frame, row of the model's maskmem_tpos_enc
    pointers: list[tuple[int, int]]  # frame, distance
    span: int | None = None  # what distances are divided by; None: the model's, of the video's length
    factors: tuple[list[float], list[float]] | None = None  # of keys: of each memory, and of each pointer; None: 1


class Strategy:
    """Decides what SAM 2 leaves to a rule. This class is SAM 2's own rule; strategies override its methods.

    An instance has settings and nothing else: it serves any number of sessions, objects and threads. What it knows of
    an object is in tensors that the session keeps with the result of each frame. So they are copied, saved, reset and
    removed with the object, and a pass that begins at an earlier frame begins with what was known there. A prompt
    starts from zeros, and so does a pass whose first frame has no neighbour that was tracked in its direction.

    Attributes:
        presence: logit above which an object counts as present, for its mask and its pointer. The memory encoder keeps
            the model's own threshold, 0.
        fill_hole_area: replaces the predictor's setting; None for that.
        state_size: how many numbers the strategy keeps of an object on the device.
        record_size: how many numbers it records of each frame for :meth:`attend`.
        has_span: whether :meth:`attend` says what distances are divided by.
        has_factors: whether :meth:`attend` weights keys.
        at_video_size: whether :meth:`choose` depends on the size of the video.
        sees_others: whether :meth:`choose` compares objects that are tracked together, whose pixels are each one's
            own. Objects whose prompts overlap by more than a tenth of the smaller are not compared: they are parts and
            wholes. Nor are hypotheses with different numbers.
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
        """Whether it takes part in the step on the device."""
        return type(self).choose is not Strategy.choose or self.presence != 0

    @property
    def looks_further(self) -> bool:
        """Whether it attends to frames beyond the model's reach, so that none may be dropped by their age."""
        return type(self).keep is not Strategy.keep

    @property
    def hypotheses(self) -> int:
        """How many hypotheses of each object are tracked on frames without a prompt.

        With several, so many rows of :meth:`choose` are one object's, each with a history of its own, and it decides
        which of them each row continues; the first number of the record is that ``parent`` again. The first row is the
        best: its masks are shown, in a stream at once, and otherwise when the pass ends. A prompt continues it alone.
        """
        return 1

    def for_model(self, model: "SAM2Base") -> "Strategy":
        """The same strategy with settings that depend on the model."""
        return self

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        """Chooses each object's mask on one frame.

        It runs on the device, and may be recorded: shapes and operations must not depend on values, and nothing may be
        read back. Rows are objects, or hypotheses of objects unless prompted. They do not influence each other unless
        the strategy ``sees_others``.

        Args:
            state: ``(B, state_size)`` float64, of the neighbour; zeros where there is none, and on a prompt.
        """
        return Decided(candidates.best())

    def attend(self, history: History) -> Attended:
        """Chooses the memories and pointers of one object; runs on the CPU, before the frame is computed."""
        frame, reverse, num_frames, conditioning, tracked, rules, _ = history
        return Attended(*select_memories(frame, conditioning, tracked, num_frames, reverse, rules))

    def keep(self, history: History) -> Collection[int]:
        """The tracked frames that a stream has to keep: those that ``frame``, which may be prompted next, or any later
        one can attend to.

        ``frame`` was tracked and stays. Its result should not be read: it may not be there yet.
        """
        oldest = history.frame - history.rules.reach
        return [t for t in history.tracked if t >= oldest]
