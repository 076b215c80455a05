"""Images and videos that the fuzzer found: all are refused as documented."""

import errno
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from PIL import Image

from sam2fast.demo.clip import encode_mp4
from sam2fast.transforms import ImageError, to_pixels
from sam2fast.video_io import VideoError, containers, open_frames
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.truncation import read_index


def test_images_that_break_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's Python decoders may raise any exception."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    for error in (KeyError("x"), TypeError("x"), zlib.error("x"), OverflowError("x"), MemoryError(), EOFError()):
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Mock(side_effect=error))
        with pytest.raises(ImageError, match="a.png"):
            to_pixels(tmp_path / "a.png")
        with pytest.raises(VideoError, match="frame 0"):
            open_frames(tmp_path, 32).pixels(0)


def test_videos_of_enormous_frames() -> None:
    """A GIF of a hundred bytes can ask for a canvas of half a gigabyte."""
    buffer = io.BytesIO()
    Image.new("P", (4, 4)).save(buffer, "GIF")
    video = buffer.getvalue()
    assert len(open_frames(video, 32)) == 1
    width, height = (side.to_bytes(2, "little") for side in (16385, 8192))
    with pytest.raises(VideoError):
        open_frames(video[:6] + width + height + video[10:], 32)


def test_videos_that_declare_enormous_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before a frame is decoded."""
    video = encode_mp4([Image.new("RGB", (32, 16))] * 2)
    assert len(open_frames(video, 32)) == 2
    monkeypatch.setattr(containers, "MAX_PIXELS", 32 * 16 - 1)
    with pytest.raises(VideoError, match="has frames of 32x16 pixels; at most 511 are decoded"):
        open_frames(video, 32)


@pytest.mark.parametrize("in_memory", [True, False])
def test_invalid_offsets(in_memory: bool, tmp_path: Path) -> None:
    """Files raise other errors than bytes in memory; errors of the disk are reported."""
    (tmp_path / "video").write_bytes(b"x" * 100)
    with io.BytesIO(b"x" * 100) if in_memory else (tmp_path / "video").open("rb") as opened:
        file = VideoInput.of_file(opened)._openable()
        assert file.seek(-5) == -1 and file.seek(1 << 70) == -1
        assert file.seek(10) == 10 and file.read(1) == b"x"
    broken = Mock(seek=Mock(side_effect=OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        containers._FileObject(broken).seek(0)


def test_an_index_of_more_frames_than_bytes() -> None:
    """FFmpeg trusts a fragment of a few bytes that declares millions of frames."""

    def announced() -> Iterator[SimpleNamespace]:
        for position in range(1000):
            yield SimpleNamespace(pos=position, is_discard=False)
        pytest.fail("the index was read beyond what the file can hold")

    container = SimpleNamespace(format=SimpleNamespace(name="mov,mp4"), size=100)
    stream = SimpleNamespace(index_entries=announced())
    assert len(read_index(container, stream)) == 100
