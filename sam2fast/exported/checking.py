"""Exported programs from elsewhere: what in their files torch would run as Python, and no export of ours holds."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sam2fast.exported.errors import ArtifactError
from sam2fast.exported.texts import all_texts, are_tensors, wrong_text

# All that torch.export.save writes of our programs: since 2.8 below a folder, before that not. Others are native code,
# pickles under names of no meaning, or objects that bring their own way of being unpickled.
ENTRY = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|(\.data/)?version|\.data/serialization_id|models/model\.json|"
    r"data/(sample_inputs/model\.pt|weights/(model\.pt|weight_\d+|model_weights_config\.json)|"
    r"constants/(model\.pt|tensor_\d+|model_constants_config\.json)))|"
    r"version|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)


def check_program(path: str | Path, allow_kernels: bool = False) -> None:
    """Refuses the file of an exported program that would do more than compute with its tensors.

    torch reads such a file as its own: it unpickles objects of any kind, evaluates the text of sizes as Python, writes
    names into code that it runs, and calls whatever functions the graph names, among them some that write files. Here a
    graph may call the functions of tensors that models like ours consist of, and no others. A file is still a program:
    it may compute anything, take all memory, and come to no end.

    This alone does not make it safe to run: what operators are given is looked at by :func:`load_program`, which also
    adds a comparison that torch leaves out.

    Args:
        allow_kernels: also this package's operators, as ``keep_kernels`` puts them into programs. On a GPU they do not
            check the sizes that they are given: for programs from those whom you trust.

    Raises:
        ArtifactError: there is such code in it, or it is damaged.
        OSError: it cannot be read.
    """
    checked_bytes(path, allow_kernels)


def checked_bytes(path: str | Path, allow_kernels: bool = False) -> io.BytesIO:
    """The file's content after :func:`check_program`: read once, for the file may be another one a moment later."""
    content = Path(path).read_bytes()
    try:
        for entries in (_as_python_reads(path, content), _as_torch_reads(content)):
            seen: set[str] = set()
            for name, read in entries:
                # torch finds entries whatever their case, and takes another one of the same name than Python does.
                if not ENTRY.fullmatch(name) or name.casefold() in seen:
                    raise ArtifactError(
                        f"{path} holds more than an exported program ({name}), which could be code, and was not loaded"
                    )
                seen.add(name.casefold())
                if name.endswith(".pt"):
                    _check_pickle(path, name, read())
                elif name.endswith(".json"):
                    _check_graph(path, json.loads(read().decode("utf-8")), allow_kernels)
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # what is damaged makes readers of archives raise almost anything, zlib.error included
        raise ArtifactError(f"{path} is damaged, or no exported program: {error}") from error
    return io.BytesIO(content)


Entries = Iterator[tuple[str, Callable[[], bytes]]]  # names, and what reads them


def _as_python_reads(path: str | Path, content: bytes) -> Entries:
    """As torch before 2.8 does, and later ones where their own reader fails."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        # torch packs nothing; what is packed, or lists the same bytes twice, may unpack to more than there is memory.
        if sum(entry.file_size for entry in entries) > len(content):
            raise ArtifactError(f"{path} holds packed entries, which torch does not write, and was not loaded")
        for entry in entries:
            yield entry.filename, partial(archive.read, entry)


def _as_torch_reads(content: bytes) -> Entries:
    """By the reader of torch since 2.8, which may find another list of entries in a file than Python does."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = reader.get_all_records()
    except RuntimeError:
        return
    for name in names:
        yield f"archive/{name}", partial(reader.get_record, name)


def _check_pickle(path: str | Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        found = torch.load(io.BytesIO(content), weights_only=True)  # exactly as torch does first
    except MemoryError:
        raise
    except Exception as error:  # torch would now try again, and run what is in it
        raise ArtifactError(
            f"{path} holds something else than tensors in {name}, which could run code, and was not loaded"
        ) from error
    if not are_tensors(found):
        raise ArtifactError(f"{path} holds something else than named tensors in {name}, and was not loaded")


def _check_graph(path: str | Path, graph: Any, kernels: bool) -> None:
    for kind, text in all_texts(graph):
        if kind == "use_pickle" and text is not False:
            raise ArtifactError(f"{path} holds tensors as pickles, which could run code, and was not loaded")
        if isinstance(text, str) and (wrong := wrong_text(kind, text, kernels)):
            raise ArtifactError(f"{path} {wrong.format(repr(text[:80]))}, and was not loaded")
