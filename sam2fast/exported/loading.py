"""The image predictor on top of an artefact, without building the model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sam2fast.checkpoints.errors import first_line
from sam2fast.exported.artifact import COMPILED, DECODER, ENCODER, FACTS, ArtifactFacts, check_usable, read_facts
from sam2fast.exported.errors import ArtifactError
from sam2fast.exported.packages import load_artifact
from sam2fast.exported.programs import load_program
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_image_predictor import SAM2ImagePredictor


def load_predictor(
    folder: str | Path, device: str | None = None, *, allow_native: bool = False, **kwargs: Any
) -> SAM2ImagePredictor:
    """An image predictor that computes with the programs of an artefact.

    Its methods and results are those of the predictor of the model that was exported, but that ``mask_input`` is
    refused, that a prompt needs points or a box, and that it may have only so many points as the artefact was made for.

    Args:
        folder: what :func:`sam2fast.exported.write_artifact` wrote.
        device: where it is expected to compute; none for the device it was made for.
        allow_native: load an artefact that was written with ``aot``, too. That is native code, which runs as this
            process does: only one's own, or from somebody as trusted as a program's author.
        **kwargs: of :class:`SAM2ImagePredictor`: ``mask_threshold``, ``max_hole_area``, ``max_sprinkle_area``.

    Raises:
        FileNotFoundError: there is no artefact in the folder.
        ArtifactError: it is damaged, is native code that was not allowed, would do more than compute with tensors, or
            was made for another device, processor or version of torch. What is wrong with the programs may show only
            in calls of the predictor, which then raise this.
    """
    return SAM2ImagePredictor(cast(SAM2Base, LoadedModel(folder, device, allow_native)), **kwargs)


class LoadedModel:
    """What the image predictor uses of a model, computed by the programs of an artefact.

    Args:
        folder, device, allow_native: as for :func:`load_predictor`, which raises the same.
    """

    directly_add_no_mem_embed = False  # the encoder's program has added it

    def __init__(self, folder: str | Path, device: str | None = None, allow_native: bool = False) -> None:
        self.facts: ArtifactFacts = read_facts(folder)
        if self.facts.kind == COMPILED and not allow_native:
            raise ArtifactError(
                f"{folder} holds native code, which runs as this process does, and was not loaded; if you made it, or "
                "trust whoever did, allow it by allow_native=True"
            )
        self.device = check_usable(self.facts, folder, device)
        self.image_size = self.facts.image_size
        self._encode, self._decode = (self._load(Path(folder) / name) for name in (ENCODER, DECODER))
        self._levels = [(1, None, side, side) for side in (self.image_size // stride for stride in (4, 8, 16))]
        self.sam_prompt_encoder = _Prompts(self.image_size // 4)
        self.sam_mask_decoder = _Decoder(self._decode, self.facts)

    def _load(self, path: Path) -> Callable[..., Any]:
        if self.facts.kind == COMPILED:
            run = load_artifact(path, self.device.index)
            return _Program(path, self.device, lambda *arguments: run(_flat(arguments)))
        try:
            program = load_program(path)
            _check_inputs(program, self.facts, path.name)
            return _Program(path, self.device, self._on_its_device(program).module())
        except (ArtifactError, MemoryError):
            raise
        except Exception as error:  # of moving it, and of what torch makes of its graph
            what = f"{path}, of torch {self.facts.torch}, cannot be loaded here"
            raise ArtifactError(f"{what}: {first_line(error)}") from error

    def _on_its_device(self, program: Any) -> Any:
        """A program whose weights and constants are on the GPU that was asked for, rather than where it was made."""
        if self.device.type != "cuda" or self.device.index is None:
            return program
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(program, str(self.device))

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """The decoder's levels for normalised ``images (B, 3, S, S)``, one after the other, finest first."""
        encoded = [self._encode(image, shapes=self._levels) for image in images.contiguous().split(1)]
        return [torch.cat(levels) if len(levels) > 1 else levels[0] for levels in zip(*encoded, strict=True)]


class _Program:
    """A program of an artefact, whatever is in it.

    Raises:
        ArtifactError: it fails, or its results are not those of such a program.
    """

    def __init__(self, path: Path, device: torch.device, run: Callable[..., Any]) -> None:
        self._path, self._device, self._run = path, device, run

    def __call__(self, *arguments: Any, shapes: Sequence[tuple[int | None, ...]] | None = None) -> list[Tensor]:
        """Its results, which have the last of ``shapes``, all or one, where None stands for any size."""
        try:
            results = self._run(*arguments)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # as many kinds as there are operators
            raise ArtifactError(f"{self._path} cannot be run: {first_line(error)}") from error
        if not isinstance(results, tuple | list) or not all(self._is_usable(x) for x in results):
            raise ArtifactError(f"{self._path} gives something else than tensors on {self._device}")
        if shapes is not None:
            found = [tuple(x.shape) for x in results]
            if len(found) not in (1, len(shapes)) or not all(map(_fits, found[::-1], shapes[::-1])):
                raise ArtifactError(f"{self._path} gives tensors of shapes {found}; expected {list(shapes)}")
        return list(results)

    def _is_usable(self, result: Any) -> bool:
        is_tensor = isinstance(result, Tensor) and result.layout is torch.strided and result.is_floating_point()
        return is_tensor and result.device.type == self._device.type


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


def _check_inputs(program: Any, facts: ArtifactFacts, name: str) -> None:
    """Raises ``ValueError`` if a program takes something else than the facts say, which is what it will be given."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    given = [values.get(name) for name in program.graph_signature.user_inputs]
    shapes = [tuple(value.shape) for value in given if isinstance(value, Tensor)]
    side = facts.image_size
    expected: dict[str, tuple[int, tuple[int | None, ...]]] = {
        ENCODER: (0, (1, 3, side, side)),
        DECODER: (-2, (facts.prompts, None, 2)),  # the points, before their labels
    }
    place, shape = expected[name]
    if len(shapes) < abs(place) or not _fits(shapes[place], shape):
        raise ValueError(f"it takes tensors of shapes {shapes}, and not {shape} as {FACTS} says")


class _Prompts:
    """In the place of the prompt encoder, which is a part of the decoder's program: puts points into one tensor."""

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
    """In the place of the mask decoder."""

    def __init__(self, program: Callable[..., Any], facts: ArtifactFacts) -> None:
        self._program, self._prompts, self._points = program, facts.prompts, facts.points
        self._side = facts.image_size // 4

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
        """The results for at most as many prompts as the program takes, which is given the last one again to fill up.

        Prompts do not see each other.
        """
        count = len(prompts)
        full = torch.cat([prompts, prompts[-1:].expand(self._prompts - count, -1, -1)])
        coords, labels = full[..., :2].contiguous(), full[..., 2].to(torch.int32)
        shapes = [(len(full), 4, self._side, self._side), (len(full), 4), (len(full), 1)]
        results = self._program(levels, coords, labels, None, shapes=shapes)
        if len(results) != len(shapes):
            raise ArtifactError(f"the decoder gives {len(results)} tensors; expected {len(shapes)}")
        return [x[:count] for x in results]


def _flat(arguments: Sequence[Any]) -> list[Tensor]:
    """All tensors in order, also those in lists."""
    flat: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            flat.append(argument)
        elif argument is not None:
            flat += argument
    return flat
