"""The image predictor on top of an artefact, without building the model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sam2fast.deploy.exported.artifact import COMPILED, DECODER, ENCODER, ArtifactFacts, check_usable, read_facts
from sam2fast.deploy.exported.programs import load_artifact, load_program
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_image_predictor import SAM2ImagePredictor


def load_predictor(folder: str | Path, device: str | None = None, **kwargs: Any) -> SAM2ImagePredictor:
    """An image predictor that computes with the programs of an artefact.

    An artefact is a program, exported or compiled, and loading it can run code: load only artefacts that you exported
    yourself.

    Its methods and results are those of the predictor of the model that was exported, except that ``mask_input`` is
    refused, that a prompt needs points or a box, and that a prompt has at most as many points as the artefact was made
    for.

    Args:
        folder: what :func:`sam2fast.deploy.exported.write_artifact` wrote.
        device: where it is expected to compute; none for the device it was made for.
        **kwargs: of :class:`SAM2ImagePredictor`: ``mask_threshold``, ``max_hole_area``, ``max_sprinkle_area``.

    Raises:
        FileNotFoundError: there is no artefact in the folder.
        ArtifactError: it is damaged, or was made for another device, processor or version of torch.
        TypeError: ``allow_native`` is given, which was removed.
    """
    if "allow_native" in kwargs:  # the predictor ignores what it does not know, as the original does
        raise TypeError("allow_native was removed in sam2fast 0.2: an artefact is a program in any case; leave it out")
    return SAM2ImagePredictor(cast(SAM2Base, LoadedModel(folder, device)), **kwargs)


class LoadedModel:
    """What the image predictor uses of a model, computed by the programs of an artefact.

    Args:
        folder, device: as for :func:`load_predictor`, which raises the same.
    """

    directly_add_no_mem_embed = False  # the encoder's program has added it

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        self.facts: ArtifactFacts = read_facts(folder)
        self.device = check_usable(self.facts, folder, device)
        self.image_size = self.facts.image_size
        self._encode, self._decode = (self._load(Path(folder) / name) for name in (ENCODER, DECODER))
        self.sam_prompt_encoder = _Prompts(self.image_size // 4)
        self.sam_mask_decoder = _Decoder(self._decode, self.facts)

    def _load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        if self.facts.kind == COMPILED:
            run = load_artifact(path, self.device.index)
            return lambda *arguments: run(_flat(arguments))
        module: Callable[..., Sequence[Tensor]] = self._on_its_device(load_program(path)).module()
        return module

    def _on_its_device(self, program: Any) -> Any:
        """A program with its weights and constants on the GPU that was asked for, rather than where it was made."""
        if self.device.type != "cuda" or self.device.index is None:
            return program
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(program, str(self.device))

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """The decoder's levels for normalised ``images (B, 3, S, S)``, one after the other, finest first."""
        encoded = [self._encode(image) for image in images.contiguous().split(1)]
        return [torch.cat(levels) if len(levels) > 1 else levels[0] for levels in zip(*encoded, strict=True)]


class _Prompts:
    """Stands for the prompt encoder, which is a part of the decoder's program: puts points into one tensor."""

    def __init__(self, side: int) -> None:
        self.mask_input_size = (side, side)

    def get_dense_pe(self) -> None:
        """The decoder's program has it."""

    def __call__(self, points: tuple[Tensor, Tensor] | None, boxes: None, masks: Tensor | None) -> tuple[Tensor, None]:
        """Coordinates and labels of all points as ``(B, P, 3)``."""
        if masks is not None:
            raise ValueError("this artefact was exported without mask prompts: mask_input must be left out")
        if points is None:
            raise ValueError("this artefact needs points or a box in every prompt")
        coords, labels = points
        return torch.cat([coords, labels[..., None].to(coords.dtype)], dim=2), None


class _Decoder:
    """Stands for the mask decoder."""

    def __init__(self, program: Callable[..., Any], facts: ArtifactFacts) -> None:
        self._program, self._prompts, self._points = program, facts.prompts, facts.points

    def __call__(
        self,
        *,
        image_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        multimask_output: bool,
        high_res_features: Sequence[Tensor] | None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, None, Tensor]:
        """Masks ``(B, 3 or 1, S/4, S/4)``, IoUs ``(B, 3 or 1)``, nothing, object scores ``(B, 1)``."""
        points = sparse_prompt_embeddings.shape[1]
        if not 1 <= points <= self._points:
            raise ValueError(
                f"a prompt has {points} points; this artefact was exported for 1 to {self._points}, a box being two"
            )
        levels = [x.contiguous() for x in (*(high_res_features or ()), image_embeddings)]
        parts = [self._group(levels, group) for group in sparse_prompt_embeddings.split(self._prompts)]
        masks, ious, scores = (torch.cat(results) for results in zip(*parts, strict=True))
        kept = slice(1, None) if multimask_output else slice(1)
        return masks[:, kept], ious[:, kept], None, scores

    def _group(self, levels: list[Tensor], prompts: Tensor) -> list[Tensor]:
        """The results for at most as many prompts as the program takes; the last one is repeated to fill it up.

        Prompts do not see each other.
        """
        count = len(prompts)
        full = torch.cat([prompts, prompts[-1:].expand(self._prompts - count, -1, -1)])
        coords, labels = full[..., :2].contiguous(), full[..., 2].to(torch.int32)
        return [x[:count] for x in self._program(levels, coords, labels, None)]


def _flat(arguments: Sequence[Any]) -> list[Tensor]:
    """All tensors in order, also those in lists."""
    flat: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            flat.append(argument)
        elif argument is not None:
            flat += argument
    return flat
