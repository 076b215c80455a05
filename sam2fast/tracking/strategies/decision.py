"""A strategy's part in one step on the device."""

import torch
from torch import Tensor

from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy


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
        decided = self.strategy.choose(candidates, self.state)
        for name, found, shape in (
            ("candidate", decided.candidate, (1,)),
            ("state", decided.state, (self.strategy.state_size,)),
            ("record", decided.record, (self.strategy.record_size,)),
            ("as_prompt", decided.as_prompt, (1,)),
            ("parent", decided.parent, (1,)),
        ):
            if found is not None and found.shape != (len(ious), *shape):
                raise ValueError(
                    f"{type(self.strategy).__name__}.choose decided a {name} of shape {tuple(found.shape)}; "
                    f"expected {(len(ious), *shape)}"
                )
        self._decided = decided
        if decided.parent is not None:
            rows = torch.arange(len(ious), device=ious.device)
            self.parents = rows - rows % self.strategy.hypotheses + decided.parent[:, 0]
        return decided.candidate

    def outcome(self) -> Decided:
        """What was decided, without None for states and records; as before where no mask was predicted."""
        candidate, state, record, as_prompt, _ = self._decided or Decided(self.state[:, :0].long())
        count = len(self.state)
        if record is None:
            record = self.state.new_zeros(count, self.strategy.record_size)
        return Decided(candidate, self.state if state is None else state.double(), record.float(), as_prompt)
