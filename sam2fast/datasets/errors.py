"""What is raised when a data set cannot be read or written."""


class DatasetError(ValueError):
    """A file, folder or sample of a data set that cannot be used; the message names it, and what was expected.

    In training it is reported, and another sample takes its place.
    """


class OverlapError(DatasetError):
    """Masks that overlap, where an image has room for one object at each pixel."""
