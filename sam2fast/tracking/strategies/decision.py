"""A strategy's part in one step on the device."""

import torch
from torch import Tensor

from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy

INTEGER, BOOL = (torch.int64, torch.int32), (torch.bool,)


class Decision:
    """Calls a strategy when the decoder has predicted the candidates of a step, and keeps what it decided.

    It is a :class:`~sam2fast.modeling.mask_selection.HypothesisSelection`.

    Args:
        strategy: that takes part in steps on the device.
        state: ``(B, state_size)`` of the objects.
        image_size: side of the model's input.
        video_size: (height, width) of the video.
        prompted, conditioning: see :class:`MaskCandidates`.
    """

    def __init__(
        self,
        strategy: Strategy,
        state: Tensor,
        image_size: int,
        video_size: tuple[int, int],
        prompted: bool = False,
        conditioning: bool = False,
    ) -> None:
        self.strategy, self.state, self._prompt = strategy, state, (prompted, conditioning)
        self._sizes = image_size, video_size if strategy.at_video_size else (0, 0)
        self._decided: Decided | None = None
        self.parents: Tensor | None = None

    @property
    def presence(self) -> float:
        """See :class:`Strategy`."""
        return self.strategy.presence

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """The chosen candidates ``(B, 1)``."""
        candidates = MaskCandidates(masks, ious.float(), scores.float(), *self._prompt, *self._sizes)
        decided = self._decided = self._checked(self.strategy.choose(candidates, self.state), len(ious))
        if decided.parent is not None:
            rows = torch.arange(len(ious), device=ious.device)
            self.parents = rows - rows % self.strategy.hypotheses + decided.parent[:, 0]
        return decided.candidate

    def _checked(self, decided: Decided, count: int) -> Decided:
        """What the strategy decided for so many rows.

        Raises:
            ValueError: it is no ``Decided``, or a part is no tensor or has another shape or dtype.
        """
        call = f"{type(self.strategy).__name__}.choose"
        if not isinstance(decided, Decided):
            raise ValueError(f"{call} returned a {type(decided).__name__}; expected Decided(candidate)")
        for name, found, columns, dtypes in (
            ("candidate", decided.candidate, 1, INTEGER),
            ("state", decided.state, self.strategy.state_size, ()),
            ("record", decided.record, self.strategy.record_size, ()),
            ("as_prompt", decided.as_prompt, 1, BOOL),
            ("parent", decided.parent, 1, INTEGER),
        ):
            if found is None and name != "candidate":
                continue
            if not isinstance(found, Tensor):
                raise ValueError(f"{call} decided a {name} of type {type(found).__name__}; expected a tensor")
            if found.shape != (count, columns):
                raise ValueError(f"{call} decided a {name} of shape {tuple(found.shape)}; expected {(count, columns)}")
            if dtypes and found.dtype not in dtypes:
                raise ValueError(f"{call} decided a {name} of {found.dtype}; expected {dtypes[0]}")
        return decided

    def outcome(self) -> Decided:
        """What was decided, without None for states and records; as before where no mask was predicted."""
        candidate, state, record, as_prompt, _ = self._decided or Decided(self.state[:, :0].long())
        count = len(self.state)
        if record is None:
            record = self.state.new_zeros(count, self.strategy.record_size)
        return Decided(candidate, self.state if state is None else state.double(), record.float(), as_prompt)
