"""Identifies the model of a session. Memories in a session are only valid for a model with the same weights."""

import hashlib
import weakref
from collections.abc import Hashable
from typing import Any

import torch

from sam2fast.modeling.sam2_base import SAM2Base


class OpenedWith:
    """Identifies the model that opened a session. Does not keep the model alive."""

    def __init__(self, model: SAM2Base) -> None:
        self._model = weakref.ref(model)
        self._device = model.device
        self._facts = known_facts(model)  # identifies the model after the model is freed
        # Last accepted other model, and the versions of both models' weights at the comparison.
        self._accepted: tuple[weakref.ref[SAM2Base], Hashable] | None = None

    def facts(self) -> dict[str, Any]:
        """Returns :func:`model_facts` of the model that opened the session."""
        model = self._model()
        return self._facts if model is None else model_facts(model)

    def __getstate__(self) -> dict[str, Any]:
        return {"_device": self._device, "_facts": self.facts()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _model=lambda: None, _accepted=None)

    def accepts(self, other: SAM2Base) -> bool:
        """Returns True if ``other`` is the same model, or another model on this device with equal weights.

        After the first comparison, weights are only compared again if a weight changed.
        """
        model = self._model()
        if model is other:
            return True
        versions = None if model is None else _versions(model), _versions(other)
        if self._accepted is None or self._accepted[0]() is not other or self._accepted[1] != versions:
            device = self._device if model is None else model.device
            if device != other.device or self.facts() != model_facts(other):
                return False
            self._accepted = weakref.ref(other), versions
        return True


def model_facts(model: SAM2Base) -> dict[str, Any]:
    """Returns values that identify models with compatible sessions. Device and dtype do not change the values."""
    parameters = [p.detach().flatten() for p in model.parameters()]
    values = torch.cat([p[:: max(1, len(p) // 8)][:8].to(torch.bfloat16) for p in parameters])
    weights = hashlib.sha256(values.cpu().view(torch.uint8).numpy().tobytes()).hexdigest()
    return {"image_size": model.image_size, "num_maskmem": model.num_maskmem, "weights": weights}


_facts: weakref.WeakKeyDictionary[SAM2Base, tuple[Hashable, dict[str, Any]]] = weakref.WeakKeyDictionary()


def known_facts(model: SAM2Base) -> dict[str, Any]:
    """Returns the cached result of :func:`model_facts`. If the weights changed, computes a new result."""
    versions, known = _versions(model), _facts.get(model)
    if known is None or known[0] != versions:
        known = _facts[model] = versions, model_facts(model)
    return known[1]


def _versions(model: SAM2Base) -> Hashable:
    """Returns a key that changes if weights change. Writes to weights through ``.data`` do not change the key."""
    # Inference tensors have no version, so the key of a model with such weights always changes.
    return tuple((p.data_ptr(), object() if p.is_inference() else p._version) for p in model.parameters())
