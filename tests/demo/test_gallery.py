"""The synthetic gallery, and the videos that the server writes."""

from fractions import Fraction

import av
import moving_shapes
import numpy as np
import pytest
from PIL import Image

from sam2fast.demo.server import gallery
from sam2fast.demo.server.demo_errors import BadVideoError
from sam2fast.demo.server.video_files import DemoVideoWriter


@pytest.fixture
def small(monkeypatch):
    """Small videos of few frames; the still life is a horizontal gradient."""
    monkeypatch.setattr(gallery, "FRAMES", 4)
    monkeypatch.setattr(gallery, "SIDE", 64)
    monkeypatch.setattr(gallery, "draw_scene", lambda: Image.linear_gradient("L").rotate(90).convert("RGB"))


def test_videos_are_drawn_where_they_are_missing(small, tmp_path, monkeypatch):
    folder, workspace = tmp_path / "gallery", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()

    def fail(*_):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError):
        failing.setattr(gallery, "_clip", fail)
        gallery.draw_gallery(folder, workspace)
    assert [*folder.iterdir(), *workspace.iterdir()] == []  # the next start draws all

    gallery.draw_gallery(folder, workspace)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01_still_life.mp4", "02_stone.mp4", "03_gathering.mp4"]
    for name, size in zip(names, [(320, 480), (64, 64), (64, 64)], strict=True):
        frames, times = moving_shapes.decoded(folder / name)
        assert times == pytest.approx([t / 24 for t in range(4)], abs=1e-4)
        assert frames[0].shape[:2] == size and frames[0].std() > 5
    before = (folder / names[0]).stat().st_mtime_ns
    (folder / names[1]).unlink()
    gallery.draw_gallery(folder, workspace)
    assert (folder / names[0]).stat().st_mtime_ns == before and (folder / names[1]).exists()
    assert list(workspace.iterdir()) == []


def test_a_video_has_many_keyframes_and_starts_at_time_zero(tmp_path):
    images = [np.full((32, 33, 3), 6 * t, dtype=np.uint8) for t in range(30)]
    with DemoVideoWriter(tmp_path / "clip.mp4", 32, 33, Fraction(30000, 1001)) as video:
        for image in images:
            video.add(image)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (32, 32)
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [packet.pts for packet in packets] == sorted(packet.pts for packet in packets)
    assert packets[0].pts == 0 and all(packet.pts == packet.dts for packet in packets)
    keyframes = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keyframes[0] == 0 and max(np.diff([*keyframes, 30])) <= 12
    frames, times = moving_shapes.decoded(tmp_path / "clip.mp4")
    assert [float(frame.mean()) for frame in frames] == pytest.approx([6.0 * t for t in range(30)], abs=4)
    assert times == pytest.approx([t * 1001 / 30000 for t in range(30)], abs=1e-3)


def test_a_failed_video_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), DemoVideoWriter(tmp_path / "clip.mp4", 32, 32, Fraction(24)) as video:
        video.add(np.zeros((32, 32, 3), dtype=np.uint8))
        raise RuntimeError
    with pytest.raises(BadVideoError), DemoVideoWriter(tmp_path / "clip.mp4", 32, 32, Fraction(24)):
        pass  # no frame
    assert list(tmp_path.iterdir()) == []
