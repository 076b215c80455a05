"""What is raised when a data set cannot be read or written."""


class DatasetError(ValueError):
    """A file or folder of a data set that cannot be used; the message names it, and what was expected."""


class OverlapError(DatasetError):
    """Masks that lie on one another, where a picture has room for one object at each pixel."""
