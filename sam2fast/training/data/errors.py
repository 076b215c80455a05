"""What is raised when training data cannot be used."""


class DataError(RuntimeError):
    """Training data that cannot be used, beyond what is skipped: training must stop."""


class BadSampleError(ValueError):
    """One clip that cannot be used; in training it is reported and another one takes its place."""
