"""A strategy's part in one step on the device."""

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import ObjectPrediction
from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy

INTEGER, BOOL, FLOAT = (torch.int64, torch.int32), (torch.bool,), (torch.float32,)
ITSELF, SHARING = 1, 2  # in the table of pairs: the row itself, and one whose pixels are its own or the other's


class Decision:
    """Calls a strategy when the decoder has predicted the candidates of a step, and keeps what it decided.

    It is a :class:`~sam2fast.modeling.mask_selection.HypothesisSelection`.

    Args:
        strategy: that takes part in steps on the device.
        state: ``(B, state_size)`` of the objects.
        image_size: side of the model's input.
        video_size: (height, width) of the video.
        prompted, conditioning: see :class:`MaskCandidates`.
        pairs: ``(B, B)`` of the tables of a step, if the strategy ``sees_others``.
    """

    def __init__(
        self,
        strategy: Strategy,
        state: Tensor,
        image_size: int,
        video_size: tuple[int, int],
        prompted: bool = False,
        conditioning: bool = False,
        pairs: Tensor | None = None,
    ) -> None:
        self.strategy, self.state, self._prompt = strategy, state, (prompted, conditioning)
        self._sizes = image_size, video_size if strategy.at_video_size else (0, 0)
        self._others: tuple[Tensor, ...] = ()
        if strategy.sees_others and pairs is not None:
            self._others = (pairs == ITSELF).any(1, keepdim=True), pairs == SHARING
        self._decided: Decided | None = None
        self.parents: Tensor | None = None

    @property
    def presence(self) -> float:
        """See :class:`Strategy`."""
        return self.strategy.presence

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """The chosen candidates ``(B, 1)``."""
        candidates = MaskCandidates(masks, ious.float(), scores.float(), *self._prompt, *self._sizes, *self._others)
        decided = self._decided = self._checked(self.strategy.choose(candidates, self.state), masks)
        if decided.parent is not None:
            rows = torch.arange(len(ious), device=ious.device)
            self.parents = rows - rows % self.strategy.hypotheses + decided.parent[:, 0]
        return decided.candidate

    def _checked(self, decided: Decided, masks: Tensor) -> Decided:
        """What the strategy decided for candidates ``(B, M, h, w)``.

        Raises:
            ValueError: it is no ``Decided``, or a part is no tensor or has another shape or dtype.
        """
        call = f"{type(self.strategy).__name__}.choose"
        if not isinstance(decided, Decided):
            raise ValueError(f"{call} returned a {type(decided).__name__}; expected Decided(candidate)")
        for name, found, shape, dtypes in (
            ("candidate", decided.candidate, (1,), INTEGER),
            ("state", decided.state, (self.strategy.state_size,), ()),
            ("record", decided.record, (self.strategy.record_size,), ()),
            ("as_prompt", decided.as_prompt, (1,), BOOL),
            ("parent", decided.parent, (1,), INTEGER),
            ("masks", decided.masks, (1, *masks.shape[2:]), FLOAT),
        ):
            if found is None and name != "candidate":
                continue
            if not isinstance(found, Tensor):
                raise ValueError(f"{call} decided a {name} of type {type(found).__name__}; expected a tensor")
            expected = len(masks), *shape
            if found.shape != expected:
                raise ValueError(f"{call} decided a {name} of shape {tuple(found.shape)}; expected {expected}")
            if dtypes and found.dtype not in dtypes:
                raise ValueError(f"{call} decided a {name} of {found.dtype}; expected {dtypes[0]}")
        return decided

    def outcome(self, prediction: ObjectPrediction) -> tuple[ObjectPrediction, Decided]:
        """The prediction with the strategy's masks; and what was decided, without None for states and records, as
        before where no mask was predicted."""
        candidate, state, record, as_prompt, _, masks = self._decided or Decided(self.state[:, :0].long())
        count = len(self.state)
        if record is None:
            record = self.state.new_zeros(count, self.strategy.record_size)
        if masks is not None:
            prediction = prediction._replace(mask=masks)
        return prediction, Decided(
            candidate, self.state if state is None else state.double(), record.float(), as_prompt
        )
