"""Programs that use sam2 give the official masks through ``as_sam2``: ``make test-clients``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_video import video_frames

from sam2fast._official_names import MODULES, NAMES
from sam2fast.config import shipped_configs
from sam2fast.utils.embedded import EMBEDDED

OFFICIAL = {ours: official for official, ours in MODULES.items()}
OFFICIAL_NAMES = {ours: f"{module}.{name}" for module, names in NAMES.items() for name, ours in names.items()}


def official_target(ours: str) -> str:
    module, _, name = ours.rpartition(".")
    return f"{OFFICIAL[module]}.{name}" if module in OFFICIAL else OFFICIAL_NAMES[ours]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a clip, and nano for the official package."""
    folder = tmp_path_factory.mktemp("client")
    np.save(folder / "frames.npy", np.stack(video_frames(6)))
    lines = shipped_configs()["nano/sam2fast_nano"].read_text(encoding="utf-8").splitlines()
    parts = [line.partition("_target_: ") for line in lines]
    text = "\n".join(f"{key}{sep}{official_target(value)}" if sep else key for key, sep, value in parts)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    torch.save({"model": load_file(EMBEDDED["sam2fast/nano"].weights)}, folder / "model.pt")
    return folder


@pytest.mark.parametrize(
    ("program", "shape"),
    [("simple-sam2", (12, 128, 128)), ("napari-samv2", (6, 128, 128)), ("samexporter", (3, 64, 64))],
)
def test_masks_are_the_originals(program, shape, folder, tmp_path):
    def masks(package):
        place = tmp_path / package
        place.mkdir()
        for file in folder.iterdir():
            (place / file.name).symlink_to(file)
        command = [sys.executable, Path(__file__).parent / "client.py", package, program, "masks.npy"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return np.load(place / "masks.npy")

    expected = masks("sam2")
    assert expected.shape == shape and all(mask.any() for mask in expected)
    assert np.array_equal(masks("sam2fast"), expected)
