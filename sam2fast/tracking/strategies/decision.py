"""Runs a strategy as part of a step on the device."""

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import ObjectPrediction
from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy

INTEGER, BOOL, FLOAT = (torch.int64, torch.int32), (torch.bool,), (torch.float32,)
ITSELF, SHARING = 1, 2  # entries of the table of pairs: a row and itself, and two rows that compete for pixels


class Decision:
    """Calls a strategy with the decoder's candidates, and stores the decision.

    Implements :class:`~sam2fast.modeling.sam2_base.MaskChooser`.

    Args:
        strategy: Strategy that decides.
        state: The strategy's state ``(B, state_size)`` of the objects.
        image_size: Side of the model's input.
        video_size: Height and width of the video.
        prompted, conditioning: See :class:`MaskCandidates`.
        pairs: Table ``(B, B)`` of compared rows, see :func:`~sam2fast.tracking.shared_prompts.pairs_of`. None unless
            the strategy ``sees_others``.
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
        """:attr:`Strategy.presence` of the strategy."""
        return self.strategy.presence

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """Returns indices ``(B, 1)`` of the selected candidates."""
        candidates = MaskCandidates(masks, ious.float(), scores.float(), *self._prompt, *self._sizes, *self._others)
        decided = self._decided = self._checked(self.strategy.choose(candidates, self.state), masks)
        if decided.parent is not None:
            rows = torch.arange(len(ious), device=ious.device)
            self.parents = rows - rows % self.strategy.hypotheses + decided.parent[:, 0]
        return decided.candidate

    def _checked(self, decided: Decided, masks: Tensor) -> Decided:
        """Checks and returns the decision for candidates ``(B, M, h, w)``.

        Raises:
            ValueError: If ``decided`` is not a ``Decided``, or a field is not a tensor of the right shape and dtype.
        """
        call = f"{type(self.strategy).__name__}.choose"
        if not isinstance(decided, Decided):
            raise ValueError(f"{call} returned a {type(decided).__name__}; expected Decided(candidate)")
        for name, value, shape, dtypes in (
            ("candidate", decided.candidate, (1,), INTEGER),
            ("state", decided.state, (self.strategy.state_size,), ()),
            ("record", decided.record, (self.strategy.record_size,), ()),
            ("as_prompt", decided.as_prompt, (1,), BOOL),
            ("parent", decided.parent, (1,), INTEGER),
            ("masks", decided.masks, (1, *masks.shape[2:]), FLOAT),
        ):
            if value is None and name != "candidate":
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{call} returned {name} of type {type(value).__name__}; expected a tensor")
            expected = len(masks), *shape
            if value.shape != expected:
                raise ValueError(f"{call} returned {name} of shape {tuple(value.shape)}; expected {expected}")
            if dtypes and value.dtype not in dtypes:
                raise ValueError(f"{call} returned {name} of {value.dtype}; expected {dtypes[0]}")
        return decided

    def outcome(self, prediction: ObjectPrediction) -> tuple[ObjectPrediction, Decided]:
        """Returns the prediction with the strategy's masks, and the decision with state and record filled in.

        If the strategy was not called, returns the state unchanged.
        """
        candidate, state, record, as_prompt, _, masks = self._decided or Decided(self.state[:, :0].long())
        count = len(self.state)
        if record is None:
            record = self.state.new_zeros(count, self.strategy.record_size)
        if masks is not None:
            prediction = prediction._replace(mask=masks)
        return prediction, Decided(
            candidate, self.state if state is None else state.double(), record.float(), as_prompt
        )
