"""What is raised when training data cannot be used."""


class DataError(RuntimeError):
    """Training data that cannot be used at all: training must stop.

    A sample that is skipped raises :class:`~sam2fast.datasets.DatasetError`.
    """
