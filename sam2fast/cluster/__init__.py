"""Work spread over the machines of a cluster by Ray. See docs/scale_out.md.

:func:`on_ray` gives a :class:`~sam2fast.parallel.runners.Runner`: what :func:`~sam2fast.parallel.run_jobs` does on the
devices of one machine, it does elsewhere.
"""

from typing import TYPE_CHECKING, Any

from sam2fast.cluster.errors import ClusterError
from sam2fast.cluster.ray_runner import on_ray
from sam2fast.removed import refuse_if_removed

__all__ = ["ClusterError", "on_ray"]


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Says what replaces a name that was removed."""
        refuse_if_removed(__name__, name)
        raise AttributeError(f"module 'sam2fast.cluster' has no attribute {name!r}")
