"""The gallery of a new server, the media of the package, and the videos that the server writes."""

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
    assert [*folder.iterdir(), *workspace.iterdir()] == []  # the next start draws all

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
