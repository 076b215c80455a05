"""What is raised when a video's masks cannot be tracked from, and how it is told."""


class VosError(ValueError):
    """Input masks that lack what the settings ask for, or cannot be used."""


def told(error: Exception) -> str:
    """An exception as one line, with the file first if it is about one."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
