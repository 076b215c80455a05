"""What every film that is written has in common: an encoder for H.264, and pictures that players colour rightly."""

from typing import Any

# The best first; without x264 FFmpeg has others on some machines.
ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
# With x264's macroblock tree, and a processor that has AVX-512, the same small pictures are not always written as the
# same bytes. Films without it are a little larger and a little better.
OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "mbtree": "0"},
    "libopenh264": {"b": "4000000"},
}
BT601, LIMITED_RANGE = 5, 1  # as FFmpeg numbers them


def find_encoder() -> str | None:
    """The name of the best encoder that this installation of PyAV has, if it has one.

    Raises:
        ImportError: PyAV is not installed.
    """
    import av

    return next((name for name in ENCODERS if name in av.codecs_available), None)


def encoder_options(name: str, crf: int) -> dict[str, str]:
    """Options of an encoder; ``crf`` is x264's quality, less being better, and nothing to the others."""
    return {**OPTIONS.get(name, {}), **({"crf": str(crf)} if name == "libx264" else {})}


def label_colours(stream: Any) -> None:
    """Says of a stream how swscale turns RGB into YUV; else players take large films for BT.709."""
    stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED_RANGE
