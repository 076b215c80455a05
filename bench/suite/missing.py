"""In a module of its own, which costs nothing to import."""


class MissingError(Exception):
    """A subject that there is not, or not here; the message is what its row says."""
