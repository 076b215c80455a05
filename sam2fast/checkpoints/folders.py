"""Which file of a folder is the checkpoint."""

from pathlib import Path

from sam2fast._official_names import RELEASES
from sam2fast.checkpoints.errors import CheckpointError, listed
from sam2fast.checkpoints.files import INDEX_SUFFIX
from sam2fast.io.atomic import expanded

SUFFIXES = (".pt", ".pth", ".safetensors")
CONFIG_FILE = "config.json"
# What transformers writes, in the order in which it prefers them itself.
TRANSFORMERS_FILES = tuple(
    name + suffix for name in ("model.safetensors", "pytorch_model.bin") for suffix in ("", INDEX_SUFFIX)
)


def find_weights(path: str | Path) -> Path:
    """The checkpoint file that is meant by a file or a folder.

    In a folder it is, in this order: the one with the name of an official checkpoint; what transformers has written
    there beside a ``config.json``, whole or in parts (then the index of the parts); the only ``.pt``, ``.pth`` or
    ``.safetensors`` file. ``~`` is the home folder.

    Raises:
        FileNotFoundError: there is no such file or folder, or none in the folder.
        CheckpointError: several files of the folder could be meant.
    """
    path = expanded(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    names = {file.name: file for file in files}
    official = [names[release.checkpoint] for release in RELEASES.values() if release.checkpoint in names]
    if CONFIG_FILE in names and not official:
        for name in TRANSFORMERS_FILES:
            if name in names:
                return names[name]
    found = official or [file for file in files if file.suffix in SUFFIXES or file.name in TRANSFORMERS_FILES]
    if not found:
        raise FileNotFoundError(f"no checkpoint ({', '.join(SUFFIXES)}) in the folder {str(path)!r}")
    if len(found) > 1:
        raise CheckpointError(
            f"the folder {path} has {len(found)} checkpoints: {listed([file.name for file in found])}; name one of them"
        )
    return found[0]


def config_beside(weights: Path) -> Path | None:
    """The ``config.json`` in the folder of a checkpoint file, if there is one."""
    file = weights.with_name(CONFIG_FILE)
    return file if file.is_file() else None
