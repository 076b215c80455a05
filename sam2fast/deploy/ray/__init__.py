"""Runs jobs on a Ray cluster. See docs/scale_out.md.

:func:`on_ray` returns a :class:`~sam2fast.deploy.parallel.runners.Runner` for a cluster. On one machine,
:func:`~sam2fast.deploy.parallel.run_jobs` runs jobs without Ray.
"""

from sam2fast.deploy.ray.ray_runner import on_ray
from sam2fast.deploy.ray.ray_session import ClusterError

__all__ = ["ClusterError", "on_ray"]
