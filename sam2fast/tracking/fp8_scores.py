"""Whether a session's attention to memories is in fp8."""

import logging
from weakref import WeakSet

from torch import nn

from sam2fast.kernels.memory_attention import Fp8, why_no_fp8
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.approximations import Approximations

_log = logging.getLogger(__name__)

_told: WeakSet[nn.Module] = WeakSet()  # the predictors about which something was logged


def fp8_scores(model: SAM2Base, approximations: Approximations) -> Fp8:
    """What ``fp8_attention`` comes to on the model's device, which may not have it; that is logged once."""
    asked = approximations.fp8_attention
    why = why_no_fp8(model.device) if asked is True else None
    if why is None:
        return asked
    if model not in _told:
        _told.add(model)
        _log.warning("fp8_attention: memory attention stays exact, for %s", why)
    return False
