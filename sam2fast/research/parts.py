"""Query for the parts of a model that a hook or another change sends to their modules."""

import torch

from sam2fast.engine import Parts, engine_for
from sam2fast.modeling.sam2_base import SAM2Base


@torch.no_grad()
def planned_parts(model: SAM2Base) -> Parts:
    """Returns a named tuple of bools ``image, masks, attention, memory``.

    A part is True if inference computes it from a plan of its weights, and False if inference calls its modules, since
    one is hooked, patched, replaced or in training mode, or since plans cannot hold its settings. See docs/research.md.

    Args:
        model: Video predictor, or the ``model`` of an image predictor.
    """
    return engine_for(model).parts()
