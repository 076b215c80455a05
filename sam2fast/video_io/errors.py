"""What is raised when a video cannot be used."""


class VideoError(ValueError):
    """A video that cannot be used, or cannot be read."""


class NoFramesError(VideoError, RuntimeError):
    """A video without a single frame; a ``RuntimeError`` too, which is what the original raises."""


def require_pyav() -> None:
    """Raises ``ImportError`` where PyAV, which reads video files, is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError("reading video files needs PyAV: pip install 'sam2fast[video]'") from error


def check_size(index: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raises ``VideoError`` for a frame whose (height, width) is not the video's, as masks would not lie on it."""
    if size != expected:
        raise VideoError(
            f"frame {index} is {size[1]}x{size[0]} pixels, but the video is {expected[1]}x{expected[0]}; "
            "frames must have one size: resize them, or cut the video there"
        )
