"""The gallery of a new server, the media of the package, and the videos that the server writes."""

import threading
from pathlib import Path

import av
import moving_shapes
import pytest
from PIL import Image

from sam2fast.demo.server import gallery


@pytest.fixture
def small(monkeypatch):
    """Videos of few frames; the still life is a horizontal gradient."""
    monkeypatch.setattr(gallery, "FRAMES", 4)
    monkeypatch.setattr(gallery, "BALL_FRAMES", 4)
    monkeypatch.setattr(gallery, "draw_scene", lambda: Image.linear_gradient("L").rotate(90).convert("RGB"))


def test_videos_are_added_where_they_are_missing(small, tmp_path, monkeypatch):
    folder, workspace = tmp_path / "gallery", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()

    def fail(*_):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError):
        failing.setattr(gallery, "draw_bouncing_balls", fail)
        gallery.fill_gallery(folder, workspace)
    left = [path.name for path in (*folder.iterdir(), *workspace.iterdir())]
    assert left == ["00_flower.mp4"]  # the next start draws all

    gallery.fill_gallery(folder, workspace)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00_flower.mp4", "01_still_life.mp4", "02_rolling_ball.mp4", "03_bouncing_balls.mp4"]
    for name, count, rate in zip(names[1:], (4, 4, 3), (24, 15, 24), strict=True):
        frames, times = moving_shapes.decoded(folder / name)
        assert times == pytest.approx([t / rate for t in range(count)], abs=1e-4)
        assert frames[0].shape[:2] == (320, 480) and frames[0].std() > 5
        if "still_life" not in name:
            assert abs(frames[0].astype(int) - frames[-1]).mean() > 2  # something moves
    before = (folder / names[1]).stat().st_mtime_ns
    (folder / names[0]).unlink()
    (folder / names[2]).unlink()
    gallery.fill_gallery(folder, workspace)
    assert (folder / names[1]).stat().st_mtime_ns == before and (folder / names[2]).exists()
    assert (folder / names[0]).read_bytes() == (gallery.MEDIA / "flower.mp4").read_bytes()
    assert list(workspace.iterdir()) == []


def test_a_new_gallery_begins_with_the_real_video_while_the_others_are_drawn(small, tmp_path, monkeypatch):
    folder, workspace = tmp_path / "gallery", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()
    may_draw = threading.Event()
    draw = gallery.draw_bouncing_balls
    monkeypatch.setattr(gallery, "draw_bouncing_balls", lambda frames: may_draw.wait(60) and draw(frames))

    def begin():
        gallery.begin_gallery(folder, workspace)
        return [thread for thread in threading.enumerate() if thread.name == "gallery"]

    (drawing,) = begin()
    assert [path.name for path in folder.iterdir()] == ["00_flower.mp4"]
    may_draw.set()
    drawing.join(60)
    assert len(list(folder.iterdir())) == 4
    (folder / "02_rolling_ball.mp4").unlink()
    assert begin() == []  # it is left as its owner has it


def test_a_gallery_whose_videos_cannot_be_drawn_says_so(small, tmp_path, monkeypatch, caplog):
    (tmp_path / "gallery").mkdir()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "draw_bouncing_balls", fail)
    gallery.begin_gallery(tmp_path / "gallery", tmp_path)
    for thread in [thread for thread in threading.enumerate() if thread.name == "gallery"]:
        thread.join(60)
    assert "No space left on device" in caplog.text


def test_the_real_media_are_small_play_in_browsers_and_are_named_with_their_licences():
    files = sorted(gallery.MEDIA.iterdir())
    notice = " ".join((Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8").split())
    assert sum(file.stat().st_size for file in files) < 3_000_000
    assert [file.name for file in files if file.name not in notice] == []
    assert notice.count("CC0 by the photographer") == 2 and "CC0 1.0 Universal" in notice
    with av.open(str(gallery.MEDIA / "flower.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    frames, times = moving_shapes.decoded(gallery.MEDIA / "flower.mp4")
    assert len(frames) == 75 and times[-1] == pytest.approx(74 / 15)
    for name in ("coffee.jpg", "cat.jpg"):
        with Image.open(gallery.MEDIA / name) as photograph:
            assert photograph.mode == "RGB" and min(photograph.size) >= 300
