"""Any model's weights and configuration from the Hugging Face hub, as a folder."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from sam2fast.downloads import hub, hub_cache, settings
from sam2fast.downloads.checks import CHECKPOINTS
from sam2fast.downloads.connection import read_small
from sam2fast.downloads.errors import RefusedError, SourceError, not_available
from sam2fast.downloads.part_file import local_errors
from sam2fast.downloads.progress import Progress
from sam2fast.downloads.retries import Policy, retried

_log = logging.getLogger(__name__)
CONFIGURATIONS = ("config.json", "config.yaml")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_HINT = "If you have the model, pass its folder or file instead."


def fetch_repository(repo: str, progress: Progress, policy: Policy | None = None) -> Path:
    """The folder in the cache with the newest version of a model, with its weights and configuration.

    Raises:
        DownloadError: it has no weights, or is neither on the hub nor in the cache.
    """
    try:
        return _fetch(repo, progress, policy or Policy())
    except SourceError as error:
        cached = hub_cache.cached_snapshot(settings.hub_cache(), repo)
        if cached is not None and any(_is_weights(path.name) for path in cached.glob("*")):
            _log.warning("the model %s is taken from the cache: the hub %s", repo, error)
            return cached
        source = f"the hub {settings.hub_endpoint()}/{repo}"
        raise not_available(f"the model {repo}", [(source, str(error))], _HINT) from error


def _fetch(repo: str, progress: Progress, policy: Policy) -> Path:
    variable = settings.offline_variable()
    if variable is not None:
        raise SourceError(f"is not asked, since {variable} is set")
    url = f"{settings.hub_endpoint()}/api/models/{repo}/revision/{hub_cache.REVISION}"
    commit, names = retried(url, lambda: _listing(url, policy), policy)
    wanted = choose_files(names)
    if not any(map(_is_weights, wanted)):
        raise RefusedError(f"has no weights ({', '.join(CHECKPOINTS)}) among {', '.join(names) or 'no files'}")
    for name in wanted:
        file = hub.describe(repo, name, policy, commit)
        path = hub.fetch_into_cache(file, False, policy, progress)
    # Whoever reads the cache takes a version for complete once "main" refers to it.
    with local_errors(path.parent):
        hub_cache.refer(settings.hub_cache(), repo, commit)
    return path.parent


def _listing(url: str, policy: Policy) -> tuple[str, list[str]]:
    """The newest version of the repository, and the files at its top."""
    try:
        answer = json.loads(read_small(url, policy, hub.login(), most=1 << 24))
        commit, names = str(answer["sha"]), [str(entry["rfilename"]) for entry in answer["siblings"]]
    except RefusedError as error:
        raise hub.explained(error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError("does not answer as the Hugging Face hub does") from error
    if not hub_cache.is_safe_name(commit):
        raise RefusedError(f"names an impossible version {commit!r}")
    return commit, [name for name in names if hub_cache.is_safe_name(name)]


def choose_files(names: Sequence[str]) -> list[str]:
    """Those that are needed to load the model: one set of weights, and its configuration."""
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if WHOLE in names:
        weights = [WHOLE]
    elif INDEX in names:
        weights = [INDEX, *(name for name in names if _SHARD.fullmatch(name))]
    else:
        weights = safetensors or [name for name in names if name.endswith(CHECKPOINTS)]
    return [*(name for name in CONFIGURATIONS if name in names), *weights]


def _is_weights(name: str) -> bool:
    return name.endswith(CHECKPOINTS)
