"""Image predictor that runs an artefact, without building the model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sam2fast.deploy.exported.artifact import COMPILED, DECODER, ENCODER, ArtifactMetadata, check_usable, read_metadata
from sam2fast.deploy.exported.programs import load_artifact, load_program
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_image_predictor import SAM2ImagePredictor


def load_predictor(folder: str | Path, device: str | None = None, **kwargs: Any) -> SAM2ImagePredictor:
    """Loads an image predictor that runs the programs of an artefact.

    Artefacts are programs, and loading one can run code. Load only artefacts that you exported yourself.

    Methods and results are equal to the exported model's predictor, with three limits: ``mask_input`` is not supported,
    every prompt needs points or a box, and the artefact limits the number of points per prompt.

    Args:
        folder: folder written by :func:`sam2fast.deploy.exported.write_artifact`.
        device: device to run on; None for the artefact's device.
        **kwargs: arguments of :class:`SAM2ImagePredictor`: ``mask_threshold``, ``max_hole_area``,
            ``max_sprinkle_area``.

    Raises:
        FileNotFoundError: If the folder has no artefact.
        ArtifactError: If the artefact is damaged, or was made for another device, processor or version of torch.
    """
    return SAM2ImagePredictor(cast(SAM2Base, LoadedModel(folder, device)), **kwargs)


class LoadedModel:
    """Replaces the model in an image predictor by the programs of an artefact. See :func:`load_predictor`."""

    directly_add_no_mem_embed = False  # the encoder program has already added the no-memory embedding

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        self.metadata: ArtifactMetadata = read_metadata(folder)
        self.device = check_usable(self.metadata, folder, device)
        self.image_size, self.backbone_stride = self.metadata.image_size, self.metadata.stride
        self.pixel_mean, self.pixel_std = self.metadata.mean, self.metadata.std
        self._encode, self._decode = (self._load(Path(folder) / name) for name in (ENCODER, DECODER))
        self.sam_prompt_encoder = _Prompts(4 * self.image_size // self.backbone_stride)
        self.sam_mask_decoder = _Decoder(self._decode, self.metadata)

    def _load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        if self.metadata.kind == COMPILED:
            run = load_artifact(path, self.device.index)
            return lambda *arguments: run([x for x in tree_leaves(arguments) if x is not None])
        module: Callable[..., Sequence[Tensor]] = self._moved_to_device(load_program(path)).module()
        return module

    def _moved_to_device(self, program: Any) -> Any:
        """Returns a program with its weights and constants on the requested GPU."""
        if self.device.type != "cuda" or self.device.index is None:
            return program
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(program, str(self.device))

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """Returns feature levels of normalized ``images (B, 3, S, S)``, finest first. Encodes images one by one."""
        encoded = [self._encode(image) for image in images.contiguous().split(1)]
        return [torch.cat(levels) if len(levels) > 1 else levels[0] for levels in zip(*encoded, strict=True)]


class _Prompts:
    """Replaces the prompt encoder. Packs points and labels into one tensor for the decoder program."""

    def __init__(self, side: int) -> None:
        self.mask_input_size = (side, side)

    def get_dense_pe(self) -> None:
        """Returns None. The decoder program contains the position encoding."""

    def __call__(self, points: tuple[Tensor, Tensor] | None, boxes: None, masks: Tensor | None) -> tuple[Tensor, None]:
        """Returns coordinates and labels of all points as ``(B, P, 3)``."""
        if masks is not None:
            raise ValueError("this artefact was exported without mask prompts: mask_input must be left out")
        if points is None:
            raise ValueError("this artefact needs points or a box in every prompt")
        coords, labels = points
        return torch.cat([coords, labels[..., None].to(coords.dtype)], dim=2), None


class _Decoder:
    """Replaces the mask decoder by the decoder program."""

    def __init__(self, program: Callable[..., Any], metadata: ArtifactMetadata) -> None:
        self._program, self._prompts, self._points = program, metadata.prompts, metadata.points

    def __call__(
        self,
        *,
        image_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        multimask_output: bool,
        high_res_features: Sequence[Tensor] | None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, None, Tensor]:
        """Returns mask logits ``(B, 3 or 1, 4h, 4h)``, IoUs ``(B, 3 or 1)``, None, and object scores ``(B, 1)``."""
        points = sparse_prompt_embeddings.shape[1]
        if not 1 <= points <= self._points:
            raise ValueError(
                f"a prompt has {points} points; this artefact was exported for 1 to {self._points}; a box counts as two"
            )
        levels = [x.contiguous() for x in (*(high_res_features or ()), image_embeddings)]
        parts = [self._group(levels, group) for group in sparse_prompt_embeddings.split(self._prompts)]
        masks, ious, scores = (torch.cat(results) for results in zip(*parts, strict=True))
        columns = slice(1, None) if multimask_output else slice(1)
        return masks[:, columns], ious[:, columns], None, scores

    def _group(self, levels: list[Tensor], prompts: Tensor) -> list[Tensor]:
        """Runs the decoder program on one batch of prompts. Repeats the last prompt to fill the batch."""
        count = len(prompts)
        full = torch.cat([prompts, prompts[-1:].expand(self._prompts - count, -1, -1)])
        coords, labels = full[..., :2].contiguous(), full[..., 2].to(torch.int32)
        return [x[:count] for x in self._program(levels, coords, labels, None)]
