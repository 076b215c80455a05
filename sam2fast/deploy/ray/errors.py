"""What goes wrong with a cluster as a whole."""

from sam2fast.deploy.parallel.process import WorkerError


class ClusterError(WorkerError):
    """There is no such cluster, it cannot be used from here, or it has no room for a worker; the message says which."""
