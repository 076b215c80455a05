"""Work spread over the machines of a cluster by Ray. See docs/scale_out.md.

:func:`on_ray` gives a :class:`~sam2fast.deploy.parallel.runners.Runner`. It runs on other machines what
:func:`~sam2fast.deploy.parallel.run_jobs` runs on the devices of this one.
"""

from typing import TYPE_CHECKING, Any

from sam2fast.deploy.ray.errors import ClusterError
from sam2fast.deploy.ray.ray_runner import on_ray
from sam2fast.deprecated import old_name

__all__ = ["ClusterError", "on_ray"]


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Says what replaces a name that was removed."""
        return old_name(__name__, name)
