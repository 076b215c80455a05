"""Where official checkpoints are fetched from: a mirror, the Hugging Face hub, Meta; in this order."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sam2fast.downloads import hub, hub_cache, settings
from sam2fast.downloads.checks import file_digest
from sam2fast.downloads.connection import read_small, split_login
from sam2fast.downloads.errors import RefusedError, SourceError, not_available
from sam2fast.downloads.locks import beside, locked, remove
from sam2fast.downloads.names import Published
from sam2fast.downloads.part_file import PartFile, local_errors
from sam2fast.downloads.progress import Progress
from sam2fast.downloads.retries import Policy, retried
from sam2fast.downloads.transfer import Remote, transfer

_log = logging.getLogger(__name__)
_SHA256_LINE = re.compile(r"([0-9a-fA-F]{64})(\s.*)?", re.DOTALL)


@dataclass(frozen=True)
class Order:
    """A checkpoint that is to be fetched.

    Args:
        model: which one.
        folder: where to; None for the cache that its source belongs to.
        mirror: address of an HTTP folder to be asked first.
        sha256: what its hash has to be, in lower-case digits.
        force: fetches it even if it is there.
    """

    model: Published
    folder: Path | None = None
    mirror: str | None = None
    sha256: str | None = None
    force: bool = False
    policy: Policy = field(default_factory=Policy)
    progress: Progress = field(default_factory=Progress)

    @property
    def file(self) -> str:
        """Its official name."""
        return self.model.release.checkpoint


def fetch(order: Order) -> Path:
    """Fetches a checkpoint from the first source that has it.

    Raises:
        DownloadError: none has; the message lists them with their reasons.
    """
    variable = settings.offline_variable()
    if variable is not None:
        raise not_available(order.file, [("the network", f"not asked, since {variable} is set")], _hint(order))
    tried: list[tuple[str, str]] = []
    for source, action in _sources(order):
        if tried:
            _log.warning("%s: %s; asking %s", *tried[-1], source)
        try:
            return action(order)
        except SourceError as error:
            tried.append((source, str(error)))
    raise not_available(order.file, tried, _hint(order))


def _sources(order: Order) -> list[tuple[str, Callable[[Order], Path]]]:
    sources: list[tuple[str, Callable[[Order], Path]]] = []
    if order.mirror is not None:
        sources.append((f"the mirror {split_login(order.mirror)[0]}", _from_mirror))
    sources.append((f"the hub {settings.hub_endpoint()}/{order.model.hub_id}", _from_hub))
    sources.append((f"Meta's {order.model.release.url}", _from_meta))
    return sources


def _hint(order: Order) -> str:
    return (
        f"If you have the file, pass it: ckpt_path=... or --checkpoint FILE; or put {order.file} into "
        f"./{settings.LOCAL_FOLDER} or the folder named by ${settings.FOLDER_VARIABLE}. Another server is named by "
        f"${settings.MIRROR_VARIABLE} or HF_ENDPOINT."
    )


def _from_mirror(order: Order) -> Path:
    assert order.mirror is not None
    url = f"{order.mirror.rstrip('/')}/{quote(order.file)}"
    public = split_login(url)[0]
    digest = retried(public, lambda: _published_sha256(f"{url}.sha256", order.policy), order.policy)
    if digest is not None and order.sha256 not in (None, digest):
        raise RefusedError(f"its {order.file}.sha256 says {digest} instead of {order.sha256}")
    return _fetch_file(order, Remote(order.file, url, digest=order.sha256 or digest))


def _published_sha256(url: str, policy: Policy) -> str | None:
    """The hash in a file beside the checkpoint; None without one, or if it is something else, such as a web page."""
    try:
        text = read_small(url, policy).decode("utf-8", errors="replace")
    except RefusedError:
        return None
    found = _SHA256_LINE.fullmatch(text.strip())
    return found[1].lower() if found else None


def _from_hub(order: Order) -> Path:
    file = hub.describe(order.model.hub_id, order.file, order.policy)
    remote = file.remote
    if order.sha256 is not None and remote.digest != order.sha256:
        raise RefusedError(f"its file has the hash {remote.digest} instead of {order.sha256}")
    if order.folder is not None:
        return _fetch_file(order, remote)
    path = hub.fetch_into_cache(file, order.force, order.policy, order.progress)
    with local_errors(path.parent):
        hub_cache.refer(settings.hub_cache(), file.repo, file.commit)
    return path


def _from_meta(order: Order) -> Path:
    return _fetch_file(order, Remote(order.file, order.model.release.url, digest=order.sha256))


def _fetch_file(order: Order, remote: Remote) -> Path:
    """Fetches to the order's folder, or to the package's own cache."""
    target = (order.folder or settings.own_cache()) / order.file
    lock = beside(target)
    with locked(lock, order.file, order.progress):
        if order.force or not _is_there(target, order.sha256):
            transfer(remote, PartFile(target, split_login(remote.url)[0]), order.policy, order.progress)
        if not order.force:
            remove(lock)
    return target


def _is_there(target: Path, sha256: str | None) -> bool:
    """Whether another process has fetched the file while this one was waiting."""
    with local_errors(target.parent):
        return target.is_file() and (sha256 is None or file_digest(target, sha256) == sha256)
