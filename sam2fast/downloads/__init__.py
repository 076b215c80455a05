"""Downloads checkpoints from Meta, a mirror or the Hugging Face hub, once per machine. See docs/checkpoints.md."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sam2fast._official_names import SAM3_ID, SAM3_NAMES
from sam2fast.downloads import catalog
from sam2fast.downloads.catalog import Published, is_repository, published
from sam2fast.downloads.transfer import DownloadError, fetch, install
from sam2fast.io.file_records import file_sha256
from sam2fast.utils.embedded import MINI

__all__ = ["DownloadError", "find_checkpoint", "get_checkpoint", "get_repository"]

_CONFIGURATIONS = ("config.json", "config.yaml")
# Patterns of weight files on the hub, in order of preference: safetensors (one file or shards), files of torch.save.
_WEIGHTS = (("*.safetensors", "*.safetensors.index.json"), ("*.pt", "*.pth"))


def find_checkpoint(name: str) -> Path | None:
    """Returns the local checkpoint of an official model, or None. Uses no network, and creates no files.

    Args:
        name: Id on the Hugging Face hub, size of a SAM 2.1 model such as ``tiny``, or another official name.

    Raises:
        KeyError: If no official model has this name.
    """
    return catalog.find_local(_published(name))


def get_checkpoint(
    name: str,
    *,
    folder: str | Path | None = None,
    mirror: str | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Returns the checkpoint of an official model. If this machine has no copy, downloads the checkpoint from Meta.

    Args:
        name: Name of the model. See :func:`find_checkpoint`.
        folder: Target folder. Local files in other folders are copied to this folder. If None, returns a local file in
            any known folder, or downloads to the package's cache.
        mirror: URL of a folder with the official files. The mirror is tried before Meta. If None, uses
            ``$SAM2FAST_MIRROR``.
        sha256: Expected hash of the file, in hexadecimal digits.
        overwrite: If True, downloads the file even if the file exists.
        quiet: If True, shows no progress.

    Raises:
        KeyError: If no official model has this name.
        ValueError: If ``sha256`` is not a hash.
        DownloadError: If the file cannot be downloaded or written, or an existing file in ``folder`` has another hash.
    """
    model = _published(name)
    file = model.release.checkpoint
    sha256 = sha256.lower() if sha256 is not None else None
    if sha256 is not None and not is_sha256(sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")

    def fits(path: Path) -> bool:
        return sha256 is None or file_sha256(path) == sha256

    target = Path(folder) / file if folder is not None else None
    if not overwrite:
        if target is not None and target.is_file():
            if fits(target):
                return target
            raise DownloadError(f"{target} exists with another hash than {sha256}; download it again with overwrite")
        local = next((path for path in catalog.local_paths(model) if path.is_file() and fits(path)), None)
        if local is not None:
            return local if target is None else install(target, partial(shutil.copyfile, local), fits, quiet)
    if (variable := catalog.offline_variable()) is not None:
        raise _unavailable(f"{file} is not on this machine, {_off(variable)}", model)
    if not quiet:
        unknown = "" if sha256 else "; no checksum of the file is known to compare it with"
        print(f"{file}: licence of the weights: {model.release.licence}{unknown}", file=sys.stderr, flush=True)
    mirror = mirror or os.environ.get(catalog.MIRROR_VARIABLE)
    urls = [*([f"{mirror.rstrip('/')}/{quote(file)}"] if mirror else []), model.release.url]
    try:
        return install(
            target or catalog.own_cache() / file,
            lambda part: fetch(urls, part, sha256, quiet),
            lambda path: not overwrite and fits(path),
            quiet,
        )
    except DownloadError as error:
        raise _unavailable(f"{file} could not be downloaded: {error}", model) from error


def get_from_hub(name: str) -> Path:
    """Returns the checkpoint of one of Meta's models by ``hf_hub_download``, as in the official package.

    Local files outside of the hub's cache and a mirror take precedence. If huggingface_hub is not installed or its
    download fails, calls :func:`get_checkpoint`. Other errors are raised, for example errors of a user's replacement of
    ``hf_hub_download``.

    Args:
        name: Name of the model. See :func:`find_checkpoint`.

    Raises:
        KeyError, DownloadError: If :func:`get_checkpoint` raises the error.
    """
    model, file = _published(name), _published(name).release.checkpoint
    cached = catalog.cached_by_hub(model)
    local = next((path for path in catalog.local_paths(model) if path != cached and path.is_file()), None)
    if local is not None or os.environ.get(catalog.MIRROR_VARIABLE):
        return local or get_checkpoint(name)
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        return get_checkpoint(name)
    offline = {} if catalog.offline_variable() is None else {"local_files_only": True}
    try:
        # Looks up the function in each call, so that a user's replacement takes effect.
        return Path(huggingface_hub.hf_hub_download(repo_id=model.hub_id, filename=file, **offline))
    except (OSError, errors.HTTPError, errors.EntryNotFoundError):  # httpx's HTTPError is not an OSError
        return get_checkpoint(name)


def get_repository(repo: str, quiet: bool = False) -> Path:
    """Downloads weights and configuration of a model from the Hugging Face hub, by huggingface_hub.

    Uses the cache, token and environment variables of huggingface_hub. Without a connection, uses only the cache.

    Args:
        repo: Id of the model, ``owner/name``.
        quiet: If True, shows no progress.

    Returns:
        Folder in the cache with the weights, and with ``config.json`` or ``config.yaml`` if the model has such a file.
        Weights are safetensors if available, otherwise ``.pt`` or ``.pth`` files.

    Raises:
        ValueError: If ``repo`` is not an id.
        ImportError: If huggingface_hub is not installed.
        DownloadError: If the model cannot be downloaded, has no weights, or is SAM 3 (Meta gives access on request).
    """
    if repo in SAM3_NAMES:
        raise DownloadError(
            f"weights of SAM 3 are not downloaded here: ask Meta for access at https://huggingface.co/{SAM3_ID}, "
            "accept the SAM License, download sam3.pt, or model.safetensors and config.json, and pass the path"
        )
    if not is_repository(repo):
        raise ValueError(f"{repo!r} is no id of a model on the hub; expected 'owner/name'")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    except ImportError as error:
        raise ImportError(
            f'{repo} is no official model, and others need huggingface_hub: pip install "sam2fast[hub]"'
        ) from error

    offline, hidden = catalog.offline_variable(), quiet and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        for weights in _WEIGHTS:
            patterns = [*_CONFIGURATIONS, *weights]
            folder = Path(
                snapshot_download(
                    repo, allow_patterns=patterns, ignore_patterns="*/*", local_files_only=offline is not None
                )
            )
            if any(path.suffix in (".safetensors", ".pt", ".pth") for path in folder.glob("*")):
                return folder
    except Exception as error:  # huggingface_hub raises many types of errors, also of its HTTP library
        if offline is not None:
            raise DownloadError(
                f"the model {repo} is not in the cache of the Hugging Face hub, {_off(offline)}"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"the model {repo} could not be downloaded: {reason}") from error
    finally:
        if hidden:
            enable_progress_bars()
    raise DownloadError(f"the model {repo} has no weights (.safetensors, .pt or .pth)")


def is_sha256(text: str) -> bool:
    """Returns True if the text is a SHA-256 in lower-case hexadecimal digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _off(variable: str) -> str:
    return f"and downloads are off: {variable} is set, or --offline was given"


def _unavailable(reason: str, model: Published) -> DownloadError:
    error = DownloadError(
        f'{reason}. Use "{MINI.model_id}", a smaller model in the package. Or get {model.release.checkpoint} from '
        f"{model.release.url}, put it into ./{catalog.LOCAL_FOLDER} or ${catalog.FOLDER_VARIABLE}, or pass its path"
    )
    error.reason = reason
    return error


def _published(name: str) -> Published:
    model = published(name)
    if model is None:
        raise KeyError(f"{name!r} is no published model; see sam2fast download --list")
    return model
