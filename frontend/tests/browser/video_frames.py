"""Decodes videos by PyAV, with their transparency."""

from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray


def decode(path: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Times and RGBA images."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context
        if decoder.name == "vp9":
            decoder = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder ignores alpha
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                yield float(frame.pts * stream.time_base), frame.to_ndarray(format="rgba")
