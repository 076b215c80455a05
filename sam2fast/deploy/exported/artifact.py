"""Artefacts: folders with a model's exported or compiled encoder and decoder, and JSON metadata."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sam2fast import __version__
from sam2fast.checkpoints.weight_files import first_line
from sam2fast.deploy.exported.programs import (
    POINTS,
    ArtifactError,
    compile_artifact,
    export_decoder,
    export_encoder,
    save_program,
)
from sam2fast.io.atomic import filled
from sam2fast.io.file_records import read_record
from sam2fast.io.made_from import files_below
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.modeling.sam2_base import SAM2Base

ENCODER, DECODER, METADATA = "encoder.pt2", "decoder.pt2", "artifact.json"
FORMAT = 1
IMAGE_WEIGHTS = ("image_encoder.", "sam_", "no_mem_embed")
# Values of ArtifactMetadata.kind.
EXPORTED, COMPILED = "exported", "aot"


@dataclass(frozen=True)
class ArtifactMetadata:
    """Origin and requirements of an artefact's programs."""

    kind: str  # "exported": torch.export; "aot": native code by AOTInductor
    config: str | None  # name of the configuration
    weights: str  # SHA-256 of the weights of encoder and decoder
    image_size: int
    dtype: str  # dtype of the weights of matrix multiplications
    device: str  # "cpu", "cuda" or "mps"
    processor: str  # platform that native code requires
    prompts: int  # number of prompts per call of the decoder
    points: int  # maximum number of points per prompt
    torch: str
    sam2fast: str
    sizes: dict[str, int]  # sizes of the files, in bytes
    stride: int = 16  # image pixels per position of the embedding
    mean: list[float] = field(default_factory=lambda: list(MEAN))  # channel means of pixels in [0, 1]
    std: list[float] = field(default_factory=lambda: list(STD))
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.kind not in (EXPORTED, COMPILED):
            raise ValueError(f"kind is {self.kind!r}; expected {EXPORTED!r} or {COMPILED!r}")
        if not all(isinstance(self.sizes[name], int) for name in (ENCODER, DECODER)):
            raise ValueError(f"sizes are {self.sizes}; expected bytes")


def write_artifact(
    model: SAM2Base,
    folder: str | Path,
    config: str | None = None,
    aot: bool = False,
    prompts: int = 1,
    points: int = POINTS,
    options: Mapping[str, Any] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> ArtifactMetadata:
    """Exports a model's encoder and decoder to a folder. A folder with the metadata file is complete.

    Args:
        folder: folder that is empty or does not exist. A killed process leaves a folder ``.NAME.NUMBER.part`` in an
            existing folder, or next to a folder that did not exist.
        config: name of the configuration, for the metadata.
        aot: if True, compiles the programs for this machine. Compilation takes minutes and needs a C++ compiler.
        prompts: batch size of the decoder. Smaller batches are padded, and larger batches are split.
        points: maximum number of points per prompt; a box counts as two.
        options: compiler settings of ``torch._inductor.config``.
        made_from: see :func:`record_of`.

    Raises:
        FileExistsError: If the folder is not empty or is a file; see :func:`check_folder`.
        ValueError: If the model is in training mode, or a number is below 1.
        RuntimeError: If ``aot`` is True and the C++ compiler is missing or torch cannot compile the programs.
        OSError: If a file cannot be written. No files are left behind.
    """
    target = check_folder(folder)
    encoder, decoder = export_encoder(model), export_decoder(model, prompts, points)
    with filled(target, METADATA) as partial:
        for name, program in ((ENCODER, encoder), (DECODER, decoder)):
            if aot:
                compile_artifact(program, partial / name, options)
            else:
                save_program(program, partial / name)
        metadata = ArtifactMetadata(
            kind=COMPILED if aot else EXPORTED,
            config=config,
            weights=weights_digest(model, IMAGE_WEIGHTS),
            image_size=model.image_size,
            dtype=str(next(model.image_encoder.neck.convs.parameters()).dtype).removeprefix("torch."),
            device=model.device.type,
            processor=processor(model.device),
            prompts=prompts,
            points=points,
            torch=torch.__version__,
            sam2fast=__version__,
            sizes={name: (partial / name).stat().st_size for name in (ENCODER, DECODER)},
            stride=model.backbone_stride,
            mean=list(model.pixel_mean),
            std=list(model.pixel_std),
        )
        content = {**asdict(metadata), **record_of(partial, made_from)}
        (partial / METADATA).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return metadata


def check_folder(folder: str | Path) -> Path:
    """Checks that an artefact can be written to a folder, and returns its path with symlinks resolved.

    Raises:
        FileExistsError: If the folder is not empty or is a file.
        OSError: If the folder cannot be created, because a parent is a file or permission is missing.
    """
    target = Path(os.path.realpath(folder))
    if target.is_dir():
        if (first := next(target.iterdir(), None)) is not None:
            what = f"the folder {str(folder)!r} is not empty, {first.name!r} is in it"
            raise FileExistsError(f"{what}; an artefact needs an empty folder")
    elif os.path.lexists(target):
        raise FileExistsError(f"there is a file {str(folder)!r} where the artefact's folder should be")
    parent = next(path for path in (target, *target.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OSError(f"no artefact can be written into {str(parent)!r}: not a folder, or no permission")
    return target


def record_of(folder: Path, made_from: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns an export's record (see :mod:`sam2fast.io.made_from`) and file sizes, or {} if the record is None."""
    if made_from is None:
        return {}
    sizes = {file.relative_to(folder).as_posix(): size_of(file) for file in files_below(folder)}
    return {"made_from": made_from, "bytes": sizes}


def size_of(path: Path) -> int:
    """Returns the size of a file, or of the files in a folder and its subfolders, in bytes."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def read_metadata(folder: str | Path) -> ArtifactMetadata:
    """Reads the metadata of an artefact.

    Raises:
        FileNotFoundError: If the folder has no artefact.
        ArtifactError: If the metadata is damaged or of another version, or a program is missing or incomplete.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        raise FileNotFoundError(f"no artefact in {str(folder)!r}: it has no {METADATA}")
    metadata = read_record(path, ArtifactMetadata, ArtifactError)
    for name in (ENCODER, DECODER):
        file = Path(folder) / name
        if not file.is_file() or file.stat().st_size != metadata.sizes[name]:
            raise ArtifactError(f"{file} is missing or incomplete; export the model again")
    return metadata


def check_usable(metadata: ArtifactMetadata, folder: str | Path, device: str | None = None) -> torch.device:
    """Checks that an artefact can run on this machine, and returns the device to run on.

    Args:
        device: device to run on; None for the artefact's device.

    Raises:
        ArtifactError: If this machine has no such device, or the artefact was made for another device, processor or
            version of torch.
    """
    try:
        target = torch.device(metadata.device if device in (None, "auto") else str(device))
    except RuntimeError as error:  # the first line of torch's message lists the device names
        raise ArtifactError(f"no device {device!r}: {first_line(error)}") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if target.type != metadata.device or not available.get(metadata.device, False):
        here = target.type if target.type != metadata.device else "a machine without it"
        raise ArtifactError(
            f"the artefact {folder} was made for {metadata.device}, not for {here}; export the model again"
        )
    count = torch.cuda.device_count() if target.type == "cuda" else 1
    if target.index is not None and target.index >= count:
        raise ArtifactError(f"this machine has no device {str(target)!r}; it has {count} of them, counted from 0")
    if metadata.kind == COMPILED:
        for name, made_for, here in (
            ("torch", metadata.torch, torch.__version__),
            ("", metadata.processor, processor(target)),
        ):
            if made_for != here:
                pair = [f"{name} {x}".strip() for x in (made_for, here)]
                raise ArtifactError(
                    f"the artefact {folder} was compiled for {pair[0]}, and this is {pair[1]}; export the model again"
                )
    return target


def processor(device: torch.device) -> str:
    """Returns the platform for native code: operating system, architecture, and vector units or CUDA capability."""
    host = f"{platform.system()} {platform.machine()}"
    if device.type == "cuda":
        return f"{host}, CUDA capability {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
    return f"{host}, {torch.backends.cpu.get_cpu_capability()}"


def weights_digest(model: SAM2Base, prefixes: tuple[str, ...] = ("",)) -> str:
    """Returns the SHA-256 of the names, shapes and values of weights whose names begin with one of the prefixes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(prefixes):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
