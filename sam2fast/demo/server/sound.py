"""The sound of videos."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

# By the ending of the file: container, encoder, sample format and rate.
ENCODERS = {".mp4": ("mp4", "aac", "fltp", 44100), ".webm": ("webm", "libopus", "flt", 48000)}
# Sound in other codecs is dropped: their decoders would see files of strangers.
CODECS = frozenset(("aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le", "pcm_s24le", "pcm_f32le"))
SAFE = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm", "protocol_whitelist": "file"}


def add_sound(video: Path, source: Path, target: Path, start: float = 0.0, seconds: float = float("inf")) -> bool:
    """Writes the frames of one file and the sound of another to ``target``, MP4 or WebM by its ending.

    Args:
        start, seconds: the part of the source's sound that belongs to the video.

    Returns:
        Whether the source has sound; otherwise nothing is written.

    Raises:
        OSError, FFmpegError: a file cannot be read or written.
    """
    container, encoder, layout_format, rate = ENCODERS[target.suffix]
    with ExitStack() as opened:
        sound = opened.enter_context(av.open(str(source.absolute()), options=SAFE))
        if not sound.streams.audio or sound.streams.audio[0].codec_context.name not in CODECS:
            return False
        silent = opened.enter_context(av.open(str(video.absolute())))
        options = {"movflags": "+faststart"} if container == "mp4" else {}
        out = opened.enter_context(av.open(str(target.absolute()), "w", format=container, options=options))
        copied = out.add_stream_from_template(silent.streams.video[0])
        copied.metadata.update(silent.streams.video[0].metadata)  # WebM's alpha_mode
        stream: Any = out.add_stream(encoder, rate=rate)
        stream.layout = "stereo"
        for packet in silent.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
        resampler = AudioResampler(layout_format, "stereo", rate, frame_size=stream.codec_context.frame_size or 960)
        for frame in _cut(sound, start, seconds):
            for piece in resampler.resample(frame):
                out.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return True


def _cut(sound: Any, start: float, seconds: float) -> Iterator[Any]:
    """The decoded frames of a part, with times from its beginning; broken ones at the end are left out."""
    frames = sound.decode(audio=0)
    while True:
        try:
            frame = next(frames, None)
        except FFmpegError:
            return
        if frame is None or (frame.time is not None and frame.time >= start + seconds):
            return
        if frame.time is None or frame.time < start:
            continue
        frame.pts -= round(start / frame.time_base)
        yield frame
