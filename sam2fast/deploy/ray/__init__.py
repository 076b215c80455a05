"""Runs jobs on a Ray cluster. See docs/scale_out.md.

:func:`on_ray` returns a :class:`~sam2fast.deploy.parallel.runners.Runner`, which runs on a cluster what
:func:`~sam2fast.deploy.parallel.run_jobs` runs on the devices of one machine.
"""

from typing import TYPE_CHECKING, Any

from sam2fast.deploy.ray.ray_runner import on_ray
from sam2fast.deploy.ray.ray_session import ClusterError
from sam2fast.deprecated import old_name

__all__ = ["ClusterError", "on_ray"]


if not TYPE_CHECKING:  # for type checkers, other names stay errors

    def __getattr__(name: str) -> Any:
        """Names the replacement of a removed name."""
        return old_name(__name__, name)
