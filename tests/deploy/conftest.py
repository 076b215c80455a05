import numpy as np
import pytest
from cluster_commands import MASKS, NAMES
from commands import invoke
from PIL import Image
from small_ray import small_ray


@pytest.fixture(scope="package")
def ray_folder():
    """Connects this process to a small Ray; returns its folder."""
    with small_ray() as folder:
        yield folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return invoke


@pytest.fixture
def photos(tmp_path):
    """Six small images, and one file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        pixels = np.random.default_rng(i).integers(0, 60, (64, 96 + 8 * i, 3), dtype=np.uint8)
        pixels[:, 48:] += np.array([150, 60, 0], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture
def expected(run, photos):
    result = run("masks", "photos", *MASKS, "--out", "one")
    assert result.exit_code == 1 and "1 of 7 images had problems" in result.stderr
    return result.stdout.split("time:")[0]
