"""What is raised when a video cannot be used."""


class VideoError(ValueError):
    """A video that cannot be used, or cannot be read."""


class NoFramesError(VideoError, RuntimeError):
    """A video without a single frame; a ``RuntimeError`` too, which is what the original raises."""
