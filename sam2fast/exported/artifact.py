"""A folder with a model's encoder and decoder, exported or compiled, and a JSON file of what they were made for."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast import __version__
from sam2fast.checkpoints.errors import first_line
from sam2fast.exported.errors import ArtifactError
from sam2fast.exported.facts import check_facts
from sam2fast.exported.folders import check_folder, whole_folder
from sam2fast.exported.packages import compile_artifact
from sam2fast.exported.programs import POINTS, export_decoder, export_encoder, save_program
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.short_names import shortened
from sam2fast.whole_files import own_number

ENCODER, DECODER, FACTS = "encoder.pt2", "decoder.pt2", "artifact.json"
FORMAT = 1
# How a program lies in its file.
EXPORTED, COMPILED = "exported", "aot"
LARGEST_FACTS = 1 << 20  # bytes


@dataclass(frozen=True)
class ArtifactFacts:
    """What the programs of an artefact were made of and for."""

    kind: str  # "exported": torch.export; "aot": native code by AOTInductor
    config: str | None  # name of the configuration
    weights: str  # SHA-256 of the weights of encoder and decoder
    image_size: int
    dtype: str  # of the products' weights
    device: str  # "cpu", "cuda" or "mps"
    processor: str  # what native code runs on
    prompts: int  # of one call of the decoder
    points: int  # of a prompt, at most
    torch: str
    sam2fast: str
    sizes: dict[str, int]  # of the files, in bytes
    format: int = FORMAT


def write_artifact(
    model: SAM2Base,
    folder: str | Path,
    config: str | None = None,
    aot: bool = False,
    prompts: int = 1,
    points: int = POINTS,
    options: Mapping[str, Any] | None = None,
) -> ArtifactFacts:
    """Exports a model's encoder and decoder into a folder, where they appear whole or not at all.

    Args:
        folder: must not be there yet, or be empty. A process that is killed leaves ``.NAME.NUMBER.part`` beside it, or
            in a folder that was there ``.part``, and perhaps programs without a description, which are no artefact.
        config: the configuration's name, for the record.
        aot: compile the programs for this machine, which takes minutes and a C++ compiler.
        prompts: how many prompts one call of the decoder answers; fewer are filled up, more take several calls.
        points: how many points a prompt may have, a box being two.
        options: for the compiler, settings of ``torch._inductor.config``.

    Raises:
        FileExistsError: there is something in the folder, or a file in its place; see :func:`check_folder`.
        ValueError: the model is in training mode, or a number is below 1.
        OSError: a file cannot be written; nothing is left behind.
    """
    target = check_folder(folder)
    encoder, decoder = export_encoder(model), export_decoder(model, prompts, points)
    with whole_folder(target, target.with_name(f".{shortened(target.name)}.{own_number()}.part"), FACTS) as partial:
        for name, program in ((ENCODER, encoder), (DECODER, decoder)):
            if aot:
                compile_artifact(program, partial / name, options)
            else:
                save_program(program, partial / name)
        facts = ArtifactFacts(
            kind=COMPILED if aot else EXPORTED,
            config=config,
            weights=_digest(model),
            image_size=model.image_size,
            dtype=str(next(model.image_encoder.neck.convs.parameters()).dtype).removeprefix("torch."),
            device=model.device.type,
            processor=processor(model.device),
            prompts=prompts,
            points=points,
            torch=torch.__version__,
            sam2fast=__version__,
            sizes={name: (partial / name).stat().st_size for name in (ENCODER, DECODER)},
        )
        (partial / FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")
    return facts


def read_facts(folder: str | Path) -> ArtifactFacts:
    """What an artefact says of itself.

    Raises:
        FileNotFoundError: there is no artefact in the folder.
        ArtifactError: its description is damaged, or of another version; or a file is missing or cut short.
    """
    path = Path(folder) / FACTS
    if not path.is_file():
        raise FileNotFoundError(f"no artefact in {str(folder)!r}: it has no {FACTS}")
    if path.stat().st_size > LARGEST_FACTS:
        raise ArtifactError(f"{path} is damaged: it has more than {LARGEST_FACTS} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") != FORMAT:
            version = repr(content.get("format"))[:80]
            raise ArtifactError(f"{path} has version {version} of the format; this program reads {FORMAT}")
        check_facts(content, (EXPORTED, COMPILED), (ENCODER, DECODER))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}") from error
    facts = ArtifactFacts(**{field.name: content[field.name] for field in fields(ArtifactFacts)})
    for name, size in facts.sizes.items():
        file = Path(folder) / name
        if not file.is_file() or file.stat().st_size != size:
            raise ArtifactError(f"{file} is missing or incomplete; export the model again")
    return facts


def check_usable(facts: ArtifactFacts, folder: str | Path, device: str | None = None) -> torch.device:
    """Where an artefact computes, if it can do so here.

    Args:
        device: where the caller wants it to; none for where it was made for.

    Raises:
        ArtifactError: there is no such device, or it was made for another one, or compiled for another processor or
            version of torch.
    """
    given = _device(facts.device if device in (None, "auto") else str(device))
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if given.type != facts.device or not available.get(facts.device, False):
        here = given.type if given.type != facts.device else "a machine without it"
        raise ArtifactError(
            f"the artefact {folder} was made for {facts.device}, not for {here}; export the model again"
        )
    count = torch.cuda.device_count() if given.type == "cuda" else 1
    if given.index is not None and given.index >= count:
        raise ArtifactError(f"this machine has no device {str(given)!r}; it has {count} of them, counted from 0")
    if facts.kind == COMPILED:
        for name, made_for, here in (
            ("torch", facts.torch, torch.__version__),
            ("", facts.processor, processor(given)),
        ):
            if made_for != here:
                pair = [f"{name} {x}".strip() for x in (made_for, here)]
                raise ArtifactError(
                    f"the artefact {folder} was compiled for {pair[0]}, and this is {pair[1]}; export the model again"
                )
    return given


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:  # the first of its lines has the names that torch knows
        raise ArtifactError(f"no device {name!r}: {first_line(error)}") from error


def processor(device: torch.device) -> str:
    """What native code for a device depends on: system, architecture and vector units, or the GPU's capability."""
    host = f"{platform.system()} {platform.machine()}"
    if device.type == "cuda":
        return f"{host}, CUDA capability {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
    return f"{host}, {torch.backends.cpu.get_cpu_capability()}"


def _digest(model: SAM2Base) -> str:
    """SHA-256 of names, shapes and values of what encoder and decoder are computed from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("image_encoder.", "sam_", "no_mem_embed")):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
