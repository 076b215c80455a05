"""Copies the sound of a video to another video."""

import heapq
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av import Packet
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from sam2fast.io.atomic import atomic_path
from sam2fast.video_io.containers import VideoInput, codec_name

# Maps a file suffix to container, encoder, sample format and sample rate.
ENCODERS = {
    ".mp4": ("mp4", "aac", "fltp", 44100),
    ".mov": ("mov", "aac", "fltp", 44100),
    ".webm": ("webm", "libopus", "flt", 48000),
}
# Sound in other codecs is dropped, so that fewer decoders read untrusted files.
CODECS = frozenset(("aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le", "pcm_s24le", "pcm_f32le"))

_log = logging.getLogger(__name__)


def add_sound(video: Path, source: VideoInput, start: float = 0.0, seconds: float = float("inf")) -> bool:
    """Adds the sound of another video to a silent MP4, QuickTime or WebM file. The file is replaced atomically.

    Args:
        video: Silent file.
        source: Video with the sound.
        start, seconds: Start and duration of the part of ``source`` that ``video`` shows, in seconds.

    Returns:
        True if the sound was added. False if the source has no sound in one of :data:`CODECS`; the file is unchanged.

    Raises:
        VideoError, OSError, FFmpegError: If the source cannot be read, or the file cannot be written.
    """
    container, encoder, layout_format, rate = ENCODERS[video.suffix]
    with ExitStack() as opened:
        sound, images_stream = source.open()
        opened.enter_context(sound)
        if not sound.streams.audio:
            return False
        codec = codec_name(sound.streams.audio[0].codec_context)
        if codec not in CODECS:
            _log.warning("%s: its sound is not kept: it is %s, not one of %s", source.name, codec, sorted(CODECS))
            return False
        start += float((images_stream.start_time or 0) * (images_stream.time_base or 0))
        partial = opened.enter_context(atomic_path(video))
        silent = opened.enter_context(av.open(str(video.absolute())))
        options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
        out = opened.enter_context(av.open(str(partial.absolute()), "w", format=container, options=options))
        copied = out.add_stream_from_template(silent.streams.video[0])
        copied.metadata.update(silent.streams.video[0].metadata)  # WebM's alpha_mode
        stream: Any = out.add_stream(encoder, rate=rate)
        stream.layout = "stereo"
        resampler = AudioResampler(layout_format, "stereo", rate, frame_size=stream.codec_context.frame_size or 960)
        images = (packet for packet in silent.demux(video=0) if packet.dts is not None)
        sounds = _encoded(stream, resampler, _cut(sound, start, seconds))
        for packet in heapq.merge(images, sounds, key=lambda p: Fraction((p.dts or 0) * (p.time_base or 0))):
            if packet.stream is silent.streams.video[0]:
                packet.stream = copied
            out.mux(packet)
    return True


def _encoded(stream: Any, resampler: AudioResampler, frames: Iterator[Any]) -> Iterator[Packet]:
    for frame in frames:
        for piece in resampler.resample(frame):
            yield from stream.encode(piece)
    for piece in resampler.resample(None):
        yield from stream.encode(piece)
    yield from stream.encode(None)


def _cut(sound: Any, start: float, seconds: float) -> Iterator[Any]:
    """Yields the decoded sound frames from ``start`` on, with times since ``start``. Stops at a damaged frame."""
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
