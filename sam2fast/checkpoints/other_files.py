"""Names weights, archives and folders that are not checkpoints of SAM 2, so that error messages say what to do."""

import re
from collections.abc import Collection
from pathlib import Path
from zipfile import ZipFile

PEFT_CONFIG = "adapter_config.json"
_TO_MERGE = "with the program that trained them, save the state dict of model.merge_and_unload()"
ADAPTERS = (
    "adapters of peft, without the weights that they were trained on: load these weights, and then the adapters by "
    "sam2fast.training.adapters.load_adapters(model, FOLDER)"
)
# Endings of member names, and descriptions of archives. The first match is used.
_ARCHIVES = {
    "/constants.pkl": "a TorchScript program, not weights: use the checkpoint that it was made from, or, if you trust "
    "the file, write its weights by torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
    "/data.pkl": "",
    "/archive_format": "a program of torch.export, not weights: use the checkpoint that it was made from",
    ".npy": "an archive of NumPy arrays, not weights of PyTorch",
    ".weights.h5": "a model of Keras, not weights of PyTorch",
    "": "a ZIP archive without weights of PyTorch: unpack it",
}
# Names of files, and descriptions of their folders.
_FOLDERS = {
    PEFT_CONFIG: f"has {ADAPTERS}",
    ".metadata": "is a sharded checkpoint of torch.distributed (FSDP): write one file by `python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt`",
    "zero_to_fp32.py": "is a checkpoint of DeepSpeed: write one file by the zero_to_fp32.py in this folder",
}
# Patterns of names of weights, and the models that have them.
_FAMILIES = (
    (r"(.*\.)?image_encoder\.(blocks|layers|pos_embed|patch_embed)\b", "SAM 1, or a model derived from it"),
    (r"vision_encoder\.(layers|pos_embed)\b", "SAM 1 in transformers' layout"),
    (r"model\.\d+\.(conv|cv\d|m)\.", "a YOLO model of ultralytics"),
)
OTHER_MODEL = "choose a checkpoint of SAM 2, which `sam2fast download tiny` gets"
_SAM31 = re.compile(r"(?:.*\.)?(?:interactive_\w+|propagation_convs)\.|.*multiplex")
_UNMERGED = re.compile(r"\.base_layer\.weight$|\.original_module\.")


def archive_kind(path: Path) -> str:
    """Returns a description of an archive that has no weights of ``torch.save``, or an empty string."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # for damaged archives, zipfile raises many types of errors, and torch.load describes the damage
        return ""
    return next(text for end, text in _ARCHIVES.items() if not end or any(name.endswith(end) for name in names))


def folder_kind(path: Path) -> str:
    """Returns a description of a folder that other programs wrote, or an empty string."""
    return next((text for name, text in _FOLDERS.items() if (path / name).exists()), "")


def refused_weights(names: Collection[str]) -> str:
    """Returns the reason why weights of these names cannot be loaded, or an empty string."""
    halves = [any(name.startswith(prefix) for name in names) for prefix in ("tracker.model.", "detector.")]
    if all(halves) or any(map(_SAM31.match, names)):
        return "has weights of SAM 3.1, which is not supported: use sam3.pt of SAM 3, or a checkpoint of SAM 2.1"
    if any(map(_UNMERGED.search, names)):
        return f"has adapters that are not merged: load merged.pt of the same training, or, {_TO_MERGE}"
    return f"has {ADAPTERS}" if any("base_model.model." in name and ".lora_" in name for name in names) else ""


def family_of(names: Collection[str]) -> str:
    """Returns the name of another family of models that has weights of these names, or an empty string."""
    return next((family for pattern, family in _FAMILIES if any(re.match(pattern, name) for name in names)), "")
