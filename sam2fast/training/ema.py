"""Exponential moving average of a model's parameters."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Exponential moving average of a model's parameters in fp32, or in fp64 for fp64 parameters.

    Buffers of the model are not averaged. The model must be on the training device before the average is created. If a
    model or state has parameters with other names or shapes, methods of this class raise ``ValueError`` and change
    nothing.

    Args:
        model: model whose parameters are averaged. The initial average is a copy of the model's parameters.
        decay: weight of the previous average in each update, in [0, 1).
        warmup: if True, limits the decay to ``(1 + step) / (10 + step)``, so that the weight of the initial parameters
            decays quickly.

    Raises:
        ValueError: If ``decay`` is not in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.average = {
            name: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
            for name, value in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average with the model's parameters. ``step`` is the optimizer step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        values = self._parameters(self.model)
        targets = [values[name].detach().to(average) for name, average in self.average.items()]
        torch._foreach_lerp_(list(self.average.values()), targets, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Copies the average into a model's parameters, converted to the dtypes of the parameters."""
        for name, value in self._parameters(model).items():
            value.copy_(self.average[name])

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Context manager that replaces the model's parameters by the average, and restores the parameters bitwise.

        Changes that are made to the parameters inside the context are lost.
        """
        parameters = self._parameters(model)
        saved = {name: value.detach().clone() for name, value in parameters.items()}
        try:
            self.copy_to(model)
            yield
        finally:
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(saved[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns ``{"average": tensors by name}``. The tensors are not copies, so later updates change them."""
        return {"average": dict(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads the average from a result of :meth:`state_dict`."""
        average: Mapping[str, Tensor] = state_dict["average"]
        self._check(average, "the state")
        for name, value in self.average.items():
            value.copy_(average[name])

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(model.named_parameters())
        self._check(parameters, "the model")
        return parameters

    def _check(self, others: Mapping[str, Tensor], what: str) -> None:
        if wrong := sorted(set(self.average) ^ set(others)):
            raise ValueError(f"{what} and the average do not both have {', '.join(wrong)}")
        if wrong := [name for name, value in others.items() if value.shape != self.average[name].shape]:
            raise ValueError(f"{what} and the average differ in the shapes of {', '.join(wrong)}")
