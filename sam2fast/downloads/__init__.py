"""Checkpoints from a mirror, the Hugging Face hub or Meta: whole or not at all, and once per machine.

How it works, and what can be set: docs/downloads.md.
"""

from pathlib import Path

from sam2fast.downloads import places, settings
from sam2fast.downloads.errors import DownloadError
from sam2fast.downloads.names import Published, is_repository, published

__all__ = ["DownloadError", "find_checkpoint", "get_checkpoint", "get_repository"]


def find_checkpoint(name: str) -> Path | None:
    """The checkpoint of an official model, if this machine has it; without network, and creating nothing.

    Args:
        name: the hub's id, the size of a SAM 2.1 model such as ``tiny``, or another official name.

    Raises:
        KeyError: no official model has this name.
    """
    return places.find(_published(name))


def get_checkpoint(
    name: str,
    *,
    folder: str | Path | None = None,
    mirror: str | None = None,
    sha256: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """The checkpoint of an official model, downloaded if this machine does not have it.

    Args:
        name: as for :func:`find_checkpoint`.
        folder: where it is wanted; what lies elsewhere on this machine is copied. None takes it from wherever it is,
            and puts what is downloaded into the cache of its source.
        mirror: address of an HTTP folder with the official files, asked first; None takes ``$SAM2FAST_MIRROR``.
        sha256: what the file's hash has to be, in hexadecimal digits.
        force: downloads it even if it is there.
        quiet: shows no progress.

    Raises:
        KeyError: no official model has this name.
        ValueError: ``sha256`` is none.
        DownloadError: no source has it; or ``folder`` has it with another hash, or cannot be written.
    """
    from sam2fast.downloads.checks import file_digest, is_sha256
    from sam2fast.downloads.copies import copied
    from sam2fast.downloads.progress import default_progress
    from sam2fast.downloads.sources import Order, fetch

    model = _published(name)
    sha256 = sha256.lower() if sha256 is not None else None
    if sha256 is not None and not is_sha256(sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    target = Path(folder) / model.release.checkpoint if folder is not None else None

    def fits(path: Path) -> bool:
        return sha256 is None or file_digest(path, sha256) == sha256

    if not force:
        if target is not None and target.is_file():
            if fits(target):
                return target
            raise DownloadError(f"{target} is there with another hash than {sha256}; download it again with force")
        found = next((path for path in places.candidates(model) if path.is_file() and fits(path)), None)
        if found is not None:
            return found if target is None else copied(found, target, default_progress(quiet), fits)
    where = None if target is None else target.parent
    mirror = mirror or settings.mirror()
    return fetch(Order(model, where, mirror, sha256, force, progress=default_progress(quiet)))


def get_repository(repo: str, quiet: bool = False) -> Path:
    """The folder with the weights and configuration of any model on the Hugging Face hub.

    The hub is asked for the newest version each time; what the cache has is taken if the hub cannot be reached.

    Args:
        repo: its id, ``owner/name``.
        quiet: shows no progress.

    Returns:
        The folder in the cache of huggingface_hub, with ``config.json`` if there is one and the weights: safetensors,
        whole or in shards, if there are any, else ``.pt`` or ``.pth``.

    Raises:
        ValueError: this is no id.
        DownloadError: it cannot be had, or has no weights.
    """
    from sam2fast.downloads.progress import default_progress
    from sam2fast.downloads.repository import fetch_repository

    if not is_repository(repo):
        raise ValueError(f"{repo!r} is no id of a model on the hub; expected 'owner/name'")
    return fetch_repository(repo, default_progress(quiet))


def _published(name: str) -> Published:
    model = published(name)
    if model is None:
        raise KeyError(f"{name!r} is no published model; see sam2fast download --list")
    return model
