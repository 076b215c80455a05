"""Files of models on the Hugging Face hub, in the cache that is shared with huggingface_hub.

The requests are our own, so that a download goes on after an interruption and is compared with its hash before anybody
can find it, with huggingface_hub installed or not; that package gives the token, where it is there.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sam2fast.downloads import hub_cache, settings
from sam2fast.downloads.checks import is_digest
from sam2fast.downloads.connection import AUTHORIZATION, opened
from sam2fast.downloads.errors import RefusedError
from sam2fast.downloads.locks import locked
from sam2fast.downloads.part_file import PartFile, local_errors
from sam2fast.downloads.progress import Progress
from sam2fast.downloads.retries import Policy, retried
from sam2fast.downloads.transfer import Remote, transfer


@dataclass(frozen=True)
class HubFile:
    """What the hub says about a file: the version of its repository, its ETag and its length in bytes."""

    repo: str
    name: str
    commit: str
    etag: str
    size: int | None

    @property
    def remote(self) -> Remote:
        """The file at this version, to be fetched."""
        url = f"{settings.hub_endpoint()}/{self.repo}/resolve/{self.commit}/{quote(self.name)}"
        digest = self.etag if is_digest(self.etag) else None
        return Remote(Path(self.name).name, url, self.size, digest, login())


def login() -> dict[str, str]:
    """The header that says who asks; empty without a token."""
    token = settings.hub_token()
    return {AUTHORIZATION: f"Bearer {token}"} if token else {}


def describe(repo: str, name: str, policy: Policy, revision: str = hub_cache.REVISION) -> HubFile:
    """Asks the hub about a file, without fetching it.

    Raises:
        SourceError: the hub cannot be reached, does not have the file, or it is not the hub that answers.
    """
    url = f"{settings.hub_endpoint()}/{repo}/resolve/{quote(revision, safe='')}/{quote(name)}"
    try:
        return retried(url, lambda: _describe(url, repo, name, policy), policy)
    except RefusedError as error:
        raise explained(error) from error


def _describe(url: str, repo: str, name: str, policy: Policy) -> HubFile:
    # What is asked for is in the hub's own answer, which is a redirect to where large files are stored.
    with opened(url, policy, login(), method="HEAD", stay_on_host=True) as response:
        headers = response.headers
        commit = headers.get("X-Repo-Commit", "")
        etag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        size = headers.get("X-Linked-Size") or (headers.get("Content-Length") if response.status == 200 else None)
    if not (hub_cache.is_safe_name(commit) and hub_cache.is_safe_name(etag)):
        raise RefusedError("does not answer as the Hugging Face hub does (a proxy, or a wrong HF_ENDPOINT?)")
    return HubFile(repo, name, commit, etag, int(size) if size and size.isdecimal() else None)


def explained(error: RefusedError) -> RefusedError:
    """The same refusal, with what to do about it."""
    if error.status in (401, 403):
        return RefusedError(f"{error}: the model is private, gated or not there; a token is read from HF_TOKEN")
    return error


def fetch_into_cache(file: HubFile, force: bool, policy: Policy, progress: Progress) -> Path:
    """The file in the shared cache, fetched if it is not there in this version, or if ``force``.

    What "main" refers to there is left to the caller, who knows when a version is complete.

    Raises:
        SourceError: it cannot be had, or not be written.
    """
    cache = settings.hub_cache()
    blob = hub_cache.blob_path(cache, file.repo, file.etag)
    pointer = hub_cache.snapshot_path(cache, file.repo, file.commit, file.name)
    with locked(hub_cache.lock_path(cache, file.repo, file.etag), file.name, progress):
        if force or not (blob.is_file() or pointer.is_file()):
            transfer(file.remote, PartFile(blob, file.remote.url), policy, progress)
        with local_errors(cache):
            if blob.is_file():
                hub_cache.point(blob, pointer)
    return pointer
