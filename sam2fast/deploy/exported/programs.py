"""Exports encoder and decoder with ``torch.export`` and compiles them ahead of time with AOTInductor."""

import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sam2fast.checkpoints.weight_files import first_line
from sam2fast.engine import engine_for, static
from sam2fast.engine.by_modules import FastProducts
from sam2fast.engine.plans import EncoderPlan
from sam2fast.engine.plans.encoders import plan_encoder
from sam2fast.io.atomic import atomic_path
from sam2fast.kernels._dispatch import backend
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.utils.errors import FixableError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# Function that takes the flat list of a program's input tensors and returns the program's outputs.
FlatFunction = Callable[[Sequence[Tensor]], Sequence[Tensor]]
# Default maximum number of points per prompt. A box counts as two points.
POINTS = 8


class ArtifactError(FixableError, RuntimeError):
    """Raised if an exported or compiled model cannot be used on this machine."""


class EncoderModule(nn.Module):
    """Maps normalized pixels to the image predictor's feature levels.

    Args:
        kind: class of the encoder's plan, for computing features with the GPU engine. None calls the model's modules.
    """

    def __init__(self, model: SAM2Base, kind: Callable[..., EncoderPlan] | None = None) -> None:
        super().__init__()
        self._kind, self._model = kind, (model,)  # in a tuple, the model is not registered as a submodule
        self.image_encoder = model.image_encoder
        self.num_levels = model.num_feature_levels
        self.heads = nn.ModuleDict({str(level): head for level, head in model._level_heads().items()})
        self.no_memory = model.no_mem_embed if model.directly_add_no_mem_embed else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature levels for the decoder.

        Args:
            pixels: normalized pixels ``(B, 3, S, S)`` fp32.

        Returns:
            Contiguous levels, finest first: ``(B, C/8, 4h, 4h)``, ``(B, C/4, 2h, 2h)`` and ``(B, C, h, h)``, with
            h = S/16 (SAM 3: S/14). A model without high-resolution features has only the last level. The last level
            contains the no-memory embedding.
        """
        if self._kind is not None:  # makes the plan in every call, because a tracer may replace the weights
            (model,) = self._model
            levels = static.encode(self._kind(model.image_encoder, model._level_heads()), pixels)
        else:
            levels = self.image_encoder(pixels)["backbone_fpn"]
            for level, head in self.heads.items():
                levels[int(level)] = head(levels[int(level)])
        *high_res, embedding = levels[-self.num_levels :]
        if self.no_memory is not None:
            embedding = embedding + self.no_memory.reshape(1, -1, 1, 1)
        return (*(x.contiguous() for x in high_res), embedding.contiguous())


class DecoderModule(nn.Module):
    """Maps prompts on one image to masks."""

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        self.sam_prompt_encoder = model.sam_prompt_encoder
        self.sam_mask_decoder = model.sam_mask_decoder

    def forward(
        self, levels: Sequence[Tensor], coords: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predicts four masks for each of N prompts.

        Args:
            levels: levels of one image from :class:`EncoderModule`.
            coords: points ``(N, P, 2)`` fp32, (x, y) in the model's input pixels.
            labels: labels ``(N, P)`` int32; 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
            mask: logits ``(N, 1, 4h, 4h)`` fp32 of a mask prompt, or None.

        Returns:
            Logits ``(N, 4, 4h, 4h)`` fp32 (the single mask, then the three multimasks), predicted IoUs ``(N, 4)``, and
            object score logits ``(N, 1)``.
        """
        *high_res, embedding = levels
        decoder = self.sam_mask_decoder
        sparse, dense = self.sam_prompt_encoder((coords, labels), None, mask)
        masks, ious, _, scores = decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=len(coords) > 1,
            high_res_features=high_res or None,
        )
        if decoder.dynamic_multimask_via_stability:
            single, its_iou = decoder._dynamic_multimask_via_stability(masks, ious)
            masks, ious = torch.cat([single, masks[:, 1:]], dim=1), torch.cat([its_iou, ious[:, 1:]], dim=1)
        return masks.float(), ious.float(), scores.float()


def export_encoder(model: SAM2Base, batch: int = 1, keep_kernels: bool = False) -> "ExportedProgram":
    """Exports :class:`EncoderModule` for exactly ``batch`` images.

    Args:
        keep_kernels: if True, keeps this package's Triton kernels as operators on a GPU, if the encoder is unmodified.
            A program with these operators needs this package. Otherwise, the program has only torch operators.

    Raises:
        ValueError: If the model is in training mode, or ``batch`` is below 1.
    """
    _check(model, batch=batch)
    side = model.image_size
    with torch.no_grad():
        plan = plan_encoder(model) if keep_kernels and engine_for(model).parts().image else None
    encoder = EncoderModule(model, None if plan is None else type(plan))
    return export_module(encoder, (torch.zeros(batch, 3, side, side, device=model.device),), None, keep_kernels)


def export_decoder(
    model: SAM2Base, prompts: int = 1, points: int = POINTS, mask_input: bool = False, keep_kernels: bool = False
) -> "ExportedProgram":
    """Exports :class:`DecoderModule` for exactly ``prompts`` prompts with equal numbers of points.

    Args:
        points: maximum number of points per prompt; the program accepts 1 to ``points``.
        mask_input: if True, the program has a required fourth input, ``mask``.
        keep_kernels: see :func:`export_encoder`.

    Raises:
        ValueError: If the model is in training mode, or a number is below 1.
    """
    _check(model, prompts=prompts, points=points)
    device, S = model.device, model.image_size
    with torch.no_grad(), FastProducts(), _reference_ops(keep_kernels):
        levels = EncoderModule(model)(torch.zeros(1, 3, S, S, device=device))
    # Traced with two points, because torch would specialize a size of one.
    count = min(points, 2)
    coords = torch.full((prompts, count, 2), S / 2, device=device)
    labels = torch.ones(prompts, count, dtype=torch.int32, device=device)
    size = model.sam_prompt_encoder.mask_input_size
    mask = torch.zeros(prompts, 1, *size, device=device) if mask_input else None
    shapes: dict[str, Any] = {"levels": [None] * len(levels), "coords": None, "labels": None, "mask": None}
    if points > 1:
        dimension = torch.export.Dim("points", min=1, max=points)
        shapes |= {"coords": {1: dimension}, "labels": {1: dimension}}
    return export_module(DecoderModule(model), (list(levels), coords, labels, mask), shapes, keep_kernels)


def _check(model: SAM2Base, **numbers: int) -> None:
    if model.training:
        raise ValueError("export needs evaluation mode: call eval() on the model")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; expected at least 1")


def _reference_ops(keep_kernels: bool) -> Any:
    return nullcontext() if keep_kernels else backend("torch")


def export_module(
    module: nn.Module, example: tuple[Any, ...], shapes: Any = None, keep_kernels: bool = False
) -> "ExportedProgram":
    """Exports a module as a program with ``torch.export``.

    Args:
        example: example arguments of the module.
        shapes: ``dynamic_shapes`` of ``torch.export.export``.
        keep_kernels: see :func:`export_encoder`.
    """
    with torch.no_grad(), FastProducts(), _reference_ops(keep_kernels):
        return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)


def save_program(program: "ExportedProgram", path: str | Path) -> None:
    """Writes a program atomically with ``torch.export.save``.

    Raises:
        ValueError: If the name does not end in ``.pt2``.
        OSError: If the file cannot be written. No partial file is left.
    """
    with written_program(path) as partial:
        content = BytesIO()  # on a full disk, torch's own writer ends the process
        torch.export.save(program, content)
        partial.write_bytes(content.getbuffer())


def load_program(path: str | Path) -> "ExportedProgram":
    """Reads a program of :func:`save_program`. ``load_program(path).module()`` returns a callable module.

    The file is a program, and reading it can run code. Load only files that you exported yourself.

    Raises:
        FileNotFoundError: If the file does not exist.
        ArtifactError: If the file is damaged, or cannot be loaded by this version of torch (or sam2fast, with
            ``keep_kernels``).
    """
    _check_archive(path, "exported program")
    try:
        with Path(path).open("rb") as file:
            return torch.export.load(file)
    except MemoryError:
        raise
    except Exception as error:  # torch.export.load has no error class
        what = f"{path} is damaged, or was exported by another version of torch or, with keep_kernels=True, of sam2fast"
        again = f"export it again with torch {torch.__version__} and this sam2fast"
        raise ArtifactError(f"{what}; {again}: {first_line(error)}") from error


def compile_artifact(program: "ExportedProgram", path: str | Path, options: Mapping[str, Any] | None = None) -> None:
    """Compiles a program for this machine's device and processor with AOTInductor, and writes the file atomically.

    Args:
        path: path that ends in ``.pt2``.
        options: settings of ``torch._inductor.config``.

    Raises:
        ValueError: If the name does not end in ``.pt2``.
        OSError: If the file cannot be written. No partial file is left.
        RuntimeError: If the C++ compiler is missing, or torch cannot compile the program.
    """
    from torch._inductor import aoti_compile_and_package

    with written_program(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's warnings about its own code
        aoti_compile_and_package(
            program, package_path=str(partial), inductor_configs=None if options is None else dict(options)
        )


def load_artifact(path: str | Path, device_index: int | None = None) -> FlatFunction:
    """Loads a program of :func:`compile_artifact` as a function of the flat list of input tensors.

    The file is native code. Load only files that you compiled yourself.

    Input tensors must be contiguous and have the program's device and dtypes. Native code does not check its inputs.

    Args:
        device_index: index of the GPU for a CUDA program; by default the current GPU.

    Raises:
        FileNotFoundError: If the file does not exist.
        ArtifactError: If the file is damaged, or this version of torch cannot load the file.
    """
    _check_archive(path, "compiled program")
    index = -1 if device_index is None else device_index
    try:
        try:
            # Loads like torch._inductor.aoti_load_package, but does not import the compiler for seconds.
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)
        except (AttributeError, TypeError):
            from torch._inductor import aoti_load_package

            loader = aoti_load_package(str(path), device_index=index).loader
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be loaded by torch {torch.__version__}: {first_line(error)}") from error
    return lambda tensors: loader.run(list(tensors))


def _check_archive(path: str | Path, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {what} {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ArtifactError(f"{path} is damaged: it is not a zip archive, so not a {what}")


@contextmanager
def written_program(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path for torch to write to, then renames it to ``path``; see :func:`atomic_path`.

    Raises:
        ValueError: If the name does not end in ``.pt2``, as torch requires.
        OSError: If the file cannot be written. No partial file is left.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise ValueError(f"torch writes programs to files that end in .pt2, but got {str(target)!r}")
    with atomic_path(target, in_folder=True) as partial:
        yield partial
