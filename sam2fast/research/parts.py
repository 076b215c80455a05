"""Reports which parts of a model run from plans, and which parts run through modules."""

import torch

from sam2fast.engine import Parts, engine_for
from sam2fast.modeling.sam2_base import SAM2Base


@torch.no_grad()
def planned_parts(model: SAM2Base) -> Parts:
    """Returns a named tuple of bools ``image, masks, attention, memory``.

    A part is True if inference computes the part from a plan of its weights. A part is False if inference calls the
    part's modules, since a module is hooked, patched, replaced or in training mode, or has settings that plans do not
    support. See docs/research.md.

    Args:
        model: Video predictor, or the ``model`` of an image predictor.
    """
    return engine_for(model).parts()
