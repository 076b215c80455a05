"""A folder with a model's encoder and decoder, exported or compiled, and a JSON file that describes them."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sam2fast import __version__
from sam2fast.checkpoints.errors import first_line
from sam2fast.deploy.exported.programs import (
    POINTS,
    ArtifactError,
    compile_artifact,
    export_decoder,
    export_encoder,
    save_program,
)
from sam2fast.modeling.sam2_base import SAM2Base

ENCODER, DECODER, FACTS = "encoder.pt2", "decoder.pt2", "artifact.json"
FORMAT = 1
# How a program lies in its file.
EXPORTED, COMPILED = "exported", "aot"


@dataclass(frozen=True)
class ArtifactFacts:
    """What the programs of an artefact were made of, and what for."""

    kind: str  # "exported": torch.export; "aot": native code by AOTInductor
    config: str | None  # name of the configuration
    weights: str  # SHA-256 of the weights of encoder and decoder
    image_size: int
    dtype: str  # of the weights of matrix multiplications
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
    """Exports a model's encoder and decoder into a folder; without its description, written last, it is no artefact.

    Args:
        folder: must not exist yet, or be empty. A process that is killed leaves a folder ``.sam2fast-*`` beside it, or
            in it if it existed.
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
    with _filled(target) as partial:
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


def check_folder(folder: str | Path) -> Path:
    """The folder's path with links resolved, if an artefact can be written there.

    Raises:
        FileExistsError: it is not empty, or there is a file in its place.
        OSError: it cannot be made: a folder above is a file, or this user may not write there.
    """
    target = Path(os.path.realpath(folder))
    if target.is_dir():
        if (found := next(target.iterdir(), None)) is not None:
            what = f"the folder {str(folder)!r} is not empty, {found.name!r} is in it"
            raise FileExistsError(f"{what}; an artefact takes a folder of its own")
    elif os.path.lexists(target):
        raise FileExistsError(f"there is a file {str(folder)!r} where the artefact's folder should be")
    there = next(path for path in (target, *target.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OSError(f"no artefact can be written into {str(there)!r}: not a folder, or no permission")
    return target


@contextmanager
def _filled(target: Path) -> Iterator[Path]:
    """A temporary folder whose files are in ``target`` afterwards; on an error it is removed.

    A folder that exists may be a mount point, which nothing can be renamed to. So it stays, and the files are moved
    into it one by one, the description last.
    """
    exists = target.is_dir()
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target if exists else target.parent
    with tempfile.TemporaryDirectory(prefix=".sam2fast-", dir=place, ignore_cleanup_errors=True) as temporary:
        partial = Path(temporary) / "artefact"
        partial.mkdir()
        yield partial
        if not exists:
            os.replace(partial, target)
            return
        if others := sorted(set(os.listdir(target)) - {Path(temporary).name}):
            raise FileExistsError(f"another process has written {others[0]!r} into the folder {str(target)!r}")
        for name in sorted(os.listdir(partial), key=lambda name: name == FACTS):
            os.replace(partial / name, target / name)


def read_facts(folder: str | Path) -> ArtifactFacts:
    """Reads the description of an artefact.

    Raises:
        FileNotFoundError: there is no artefact in the folder.
        ArtifactError: its description is damaged, or of another version; or a program is missing or incomplete.
    """
    path = Path(folder) / FACTS
    if not path.is_file():
        raise FileNotFoundError(f"no artefact in {str(folder)!r}: it has no {FACTS}")
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        if content["format"] != FORMAT:
            raise ArtifactError(f"{path} has version {content['format']!r} of the format; this program reads {FORMAT}")
        facts = ArtifactFacts(**{field.name: content[field.name] for field in fields(ArtifactFacts)})
        sizes = {name: int(facts.sizes[name]) for name in (ENCODER, DECODER)}
        if facts.kind not in (EXPORTED, COMPILED):
            raise ValueError(f"kind is {facts.kind!r}; expected {EXPORTED!r} or {COMPILED!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error
    for name, size in sizes.items():
        file = Path(folder) / name
        if not file.is_file() or file.stat().st_size != size:
            raise ArtifactError(f"{file} is missing or incomplete; export the model again")
    return facts


def check_usable(facts: ArtifactFacts, folder: str | Path, device: str | None = None) -> torch.device:
    """The device that an artefact runs on, if it can run here.

    Args:
        device: the one to run on; none for the one that it was made for.

    Raises:
        ArtifactError: there is no such device, or it was made for another one, or compiled for another processor or
            version of torch.
    """
    try:
        given = torch.device(facts.device if device in (None, "auto") else str(device))
    except RuntimeError as error:  # the first of its lines has the names that torch knows
        raise ArtifactError(f"no device {device!r}: {first_line(error)}") from error
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
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
