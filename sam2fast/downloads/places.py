"""Where checkpoints are found without a network. Looking creates nothing."""

from collections.abc import Iterator
from pathlib import Path

from sam2fast.downloads import hub_cache, settings
from sam2fast.downloads.names import Published


def find(model: Published) -> Path | None:
    """The checkpoint of an official model, if this machine has it.

    Looked for under its official name in ``$SAM2FAST_CHECKPOINTS``, ``./checkpoints``, the cache of huggingface_hub and
    the package's own cache, in this order.
    """
    return next((path for path in candidates(model) if path.is_file()), None)


def candidates(model: Published) -> Iterator[Path]:
    """Every path at which the checkpoint may lie, in the order of the search."""
    file = model.release.checkpoint
    for folder in settings.checkpoint_folders():
        yield folder / file
    cached = hub_cache.cached_file(settings.hub_cache(), model.hub_id, file)
    if cached is not None:
        yield cached
    yield settings.own_cache() / file
