"""The gallery that is drawn, and the films that the server writes."""

from fractions import Fraction

import av
import numpy as np
import pytest
import track_films
from PIL import Image

from sam2fast.demo.server import gallery
from sam2fast.demo.server.errors import BadVideoError
from sam2fast.demo.server.film_writer import FilmWriter


@pytest.fixture
def small(monkeypatch):
    """A few small frames; the still life's table is a ramp from left to right."""
    monkeypatch.setattr(gallery, "FRAMES", 4)
    monkeypatch.setattr(gallery, "SIDE", 64)
    monkeypatch.setattr(gallery, "draw_scene", lambda: Image.linear_gradient("L").rotate(90).convert("RGB"))


def test_films_are_drawn_where_they_are_missing(small, tmp_path, monkeypatch):
    folder, workspace = tmp_path / "gallery", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()

    def fail(*_):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError):
        failing.setattr(gallery, "_clip", fail)
        gallery.draw_gallery(folder, workspace)
    assert [*folder.iterdir(), *workspace.iterdir()] == []  # so that the next start draws all

    gallery.draw_gallery(folder, workspace)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01_still_life.mp4", "02_stone.mp4", "03_gathering.mp4"]
    for name, size in zip(names, [(320, 480), (64, 64), (64, 64)], strict=True):
        frames, times = track_films.decoded(folder / name)
        assert times == pytest.approx([t / 24 for t in range(4)], abs=1e-4)
        assert frames[0].shape[:2] == size and frames[0].std() > 5
    before = (folder / names[0]).stat().st_mtime_ns
    (folder / names[1]).unlink()
    gallery.draw_gallery(folder, workspace)
    assert (folder / names[0]).stat().st_mtime_ns == before and (folder / names[1]).exists()
    assert list(workspace.iterdir()) == []


def test_the_camera_comes_nearer(small):
    frames = list(gallery.still_life())
    slopes = [abs(float(frame[:, -1].mean()) - float(frame[:, 0].mean())) for frame in frames]
    assert slopes[-1] < 0.8 * slopes[0]


def test_a_film_is_entered_at_many_frames_and_begins_at_once(tmp_path):
    pictures = [np.full((32, 33, 3), 6 * t, dtype=np.uint8) for t in range(30)]
    with FilmWriter(tmp_path / "film.mp4", 32, 33, Fraction(30000, 1001)) as film:
        for picture in pictures:
            film.add(picture)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (32, 32)
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [packet.pts for packet in packets] == sorted(packet.pts for packet in packets)
    assert packets[0].pts == 0 and all(packet.pts == packet.dts for packet in packets)
    keyframes = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keyframes[0] == 0 and max(np.diff([*keyframes, 30])) <= 12
    frames, times = track_films.decoded(tmp_path / "film.mp4")
    assert [float(frame.mean()) for frame in frames] == pytest.approx([6.0 * t for t in range(30)], abs=4)
    assert times == pytest.approx([t * 1001 / 30000 for t in range(30)], abs=1e-3)


def test_a_film_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), FilmWriter(tmp_path / "film.mp4", 32, 32, Fraction(24)) as film:
        film.add(np.zeros((32, 32, 3), dtype=np.uint8))
        raise RuntimeError
    with pytest.raises(BadVideoError), FilmWriter(tmp_path / "film.mp4", 32, 32, Fraction(24)):
        pass  # not one frame
    assert list(tmp_path.iterdir()) == []
