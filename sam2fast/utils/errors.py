"""The base class of errors that the user can fix."""


class FixableError(Exception):
    """An error of the input, the files or the machine. Commands print its message without a traceback."""
