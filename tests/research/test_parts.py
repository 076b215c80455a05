"""Which parts of a model are computed from plans."""

import pytest
import torch
from mini_model import mini_model

from sam2fast.research import planned_parts


@pytest.mark.parametrize("with_gradients", [False, True])
def test_planned_parts(with_gradients):
    """They are those of inference, also if gradients are enabled."""
    model = mini_model()
    with torch.set_grad_enabled(with_gradients):
        assert all(planned_parts(model))
        handle = model.sam_mask_decoder.register_forward_hook(lambda *args: None)
        assert planned_parts(model)._asdict() == {"image": True, "masks": False, "attention": True, "memory": True}
        handle.remove()
        assert all(planned_parts(model))
        model.train()
        assert not any(planned_parts(model))
