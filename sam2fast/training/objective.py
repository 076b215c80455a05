"""Module that computes the training loss: the model with its loss functions."""

import torch
from torch import Tensor, nn

from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.losses import CORE_LOSS_KEY
from sam2fast.training.model import SAM2Train
from sam2fast.training.prompt_sampling import PromptPlan


class Objective(nn.Module):
    """Module that maps a batch to losses. All trainable parameters belong to this module, for distributed training.

    Args:
        losses: Losses by batch key. Batches with other keys use the loss ``all``.
        auxiliary: Module of an additional task. The module maps a :class:`~sam2fast.training.model.ClipPrediction` and
            its batch to a dictionary of scalars. The scalar ``core_loss`` is added to the loss, and all other scalars
            are reported.
    """

    def __init__(self, model: SAM2Train, losses: nn.ModuleDict, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.losses, self.auxiliary = model, losses, auxiliary

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Returns a dictionary of scalars: ``loss``, and the unweighted terms of the loss without gradients.

        Raises:
            ValueError: If the loss depends on no trainable parameter, or no loss exists for the batch's key.
        """
        prediction = self.model(batch)
        losses = dict(self.loss_of(batch.key)(prediction.frames, batch.masks))
        losses["loss"] = losses.pop(CORE_LOSS_KEY)
        if self.auxiliary is not None:
            extra = dict(self.auxiliary(prediction, batch))
            losses["loss"] = losses["loss"] + extra.pop(CORE_LOSS_KEY)
            losses.update(extra)
        if torch.is_grad_enabled():
            check_gradient(losses["loss"], prediction.plan, batch)
        # Detaches all terms except ``loss``, because DistributedDataParallel requires that the backward pass uses all
        # attached outputs.
        return {name: value if name == "loss" else value.detach() for name, value in losses.items()}

    def loss_of(self, key: str) -> nn.Module:
        """Returns the loss for batches with key ``key``. Raises ``ValueError`` if no loss exists for ``key``."""
        if key not in self.losses and "all" not in self.losses:
            raise ValueError(f"trainer.loss has no {key!r} and no 'all'; it has {', '.join(self.losses)}")
        return self.losses[key if key in self.losses else "all"]


def check_gradient(loss: Tensor, plan: PromptPlan, batch: ClipBatch) -> None:
    """Raises ``ValueError`` with settings to change if a batch's loss depends on no trainable parameter."""
    if loss.requires_grad:
        return
    wrong = f"the loss of clips {', '.join(batch.names)} depends on no trainable parameter"
    if len(plan.initial) < batch.num_frames:
        raise ValueError(
            f"{wrong}: see trainer.model.freeze, freeze_image_encoder and adapters, and train more of them"
        )
    frames = "the only frame is" if batch.num_frames == 1 else f"all {batch.num_frames} frames are"
    reason = "so no memory is used" if plan.use_points else "by masks, so nothing is predicted"
    remedies = [f"give the sampler num_frames of {batch.num_frames + 1} or more"]
    remedies += ["lower trainer.model.num_init_cond_frames_for_train"] if batch.num_frames > 1 else []
    remedies += ["train sam_mask_decoder"] if plan.use_points else []
    raise ValueError(f"{wrong}: {frames} prompted, {reason}; {', or '.join(remedies)}")
