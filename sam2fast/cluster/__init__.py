"""Work spread over the machines of a cluster, by Ray or as an array of SLURM tasks. See docs/scale_out.md.

:func:`on_ray` and :func:`on_slurm` give a :class:`~sam2fast.parallel.runners.Runner`: what
:func:`~sam2fast.parallel.run_jobs` does on the devices of one machine, they do elsewhere.
"""

from sam2fast.cluster.errors import ClusterError
from sam2fast.cluster.ray_runner import on_ray
from sam2fast.cluster.slurm_runner import on_slurm

__all__ = ["ClusterError", "on_ray", "on_slurm"]
