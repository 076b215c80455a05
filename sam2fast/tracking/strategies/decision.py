"""A strategy's part in one step on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy


class Decision:
    """Calls a strategy when the decoder has predicted the candidates of a step, and keeps what it decided.

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

    @property
    def presence(self) -> float:
        """See :class:`Strategy`."""
        return self.strategy.presence

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """The chosen candidates ``(B, 1)``, as a :class:`~sam2fast.modeling.mask_selection.MaskSelection`."""
        candidates = MaskCandidates(masks, ious.float(), scores.float(), *self._prompt, *self._sizes)
        decided = self.strategy.choose(candidates, self.state)
        for name, found, shape in (
            ("candidate", decided.candidate, (1,)),
            ("state", decided.state, (self.strategy.state_size,)),
            ("record", decided.record, (self.strategy.record_size,)),
            ("as_prompt", decided.as_prompt, (1,)),
        ):
            if found is not None and found.shape != (len(ious), *shape):
                raise ValueError(
                    f"{type(self.strategy).__name__}.choose decided a {name} of shape {tuple(found.shape)}; "
                    f"expected {(len(ious), *shape)}"
                )
        self._decided = decided
        return decided.candidate

    def rows(self) -> list["Decision"]:
        """One decision for each object, for a model that predicts them one by one; see :meth:`join`."""
        return [Decision(self.strategy, x, *self._sizes, *self._prompt) for x in self.state.split(1)]

    def join(self, rows: Sequence["Decision"]) -> None:
        """Takes over what was decided for the objects one by one."""
        made = [row._decided for row in rows if row._decided is not None]
        if len(made) == len(self.state):
            _, *others = ([x for x in part if x is not None] for part in zip(*made, strict=True))
            candidate = torch.cat([one.candidate for one in made])
            self._decided = Decided(candidate, *(torch.cat(part) if part else None for part in others))

    def outcome(self) -> Decided:
        """What was decided, without None for states and records; as before where no mask was predicted."""
        candidate, state, record, as_prompt = self._decided or Decided(self.state[:, :0].long())
        count = len(self.state)
        if record is None:
            record = self.state.new_zeros(count, self.strategy.record_size)
        return Decided(candidate, self.state if state is None else state.double(), record.float(), as_prompt)
