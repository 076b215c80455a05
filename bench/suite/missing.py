"""In a module of its own, which costs nothing to import."""


class MissingError(Exception):
    """A subject that there is not, or not here; the message is what its row says."""


class GaveUpError(Exception):
    """The fast path of a subject gave up, so that its figures would be of the slow one; the message says why."""
