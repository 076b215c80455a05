"""The synthetic gallery, and the videos that the server writes."""

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


def test_videos_are_drawn_where_they_are_missing(small, tmp_path, monkeypatch):
    folder, workspace = tmp_path / "gallery", tmp_path / "workspace"
    folder.mkdir()
    workspace.mkdir()

    def fail(*_):
        raise RuntimeError("in the middle")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError):
        failing.setattr(gallery, "draw_bouncing_balls", fail)
        gallery.draw_gallery(folder, workspace)
    assert [*folder.iterdir(), *workspace.iterdir()] == []  # the next start draws all

    gallery.draw_gallery(folder, workspace)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["01_still_life.mp4", "02_rolling_ball.mp4", "03_bouncing_balls.mp4"]
    for name, count, rate in zip(names, (4, 4, 3), (24, 15, 24), strict=True):
        frames, times = moving_shapes.decoded(folder / name)
        assert times == pytest.approx([t / rate for t in range(count)], abs=1e-4)
        assert frames[0].shape[:2] == (320, 480) and frames[0].std() > 5
        if "still_life" not in name:
            assert abs(frames[0].astype(int) - frames[-1]).mean() > 2  # something moves
    before = (folder / names[0]).stat().st_mtime_ns
    (folder / names[1]).unlink()
    gallery.draw_gallery(folder, workspace)
    assert (folder / names[0]).stat().st_mtime_ns == before and (folder / names[1]).exists()
    assert list(workspace.iterdir()) == []
