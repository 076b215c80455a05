"""The tracker of exported models beside the official predictors, live, on the modules that are exported.

Tame weights, fp32. That the graphs compute what these modules do is in test_onnx_export.py.
"""

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import numpy as np
from onnx_graphs import AsTensors, model_of_modules
from parity import NARROW
from video import SMALL, build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor


def several_objects(s):
    """Clicks, a box and a mask; corrections, tracking backwards and a removal."""
    s.points(0, "a", (60, 40, 1))
    s.points(0, "a", (30, 20, 0), (70, 50, 1), clear_old_points=False)
    s.points(2, "b", box=[20, 20, 70, 60])
    rows, columns = np.mgrid[0:90, 0:120]
    s.mask(1, "c", (columns - 30) ** 2 + (rows - 60) ** 2 < 144)
    s.propagate()
    s.points(5, "a", (65, 45, 0))
    s.points(4, "d", (90, 20, 1))
    s.remove("b")
    s.propagate(start_frame_idx=5, max_frame_num_to_track=3)
    s.clear(5, "a")
    s.propagate(start_frame_idx=6, reverse=True)
    s.mask(3, "a", np.zeros((90, 120), bool))
    s.propagate(start_frame_idx=3, max_frame_num_to_track=1)
    s.reset()
    s.points(0, "e", (0.5, 0.4, 1), normalize_coords=False)
    s.propagate(max_frame_num_to_track=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(12))


def test_videos(video):
    official, ours = build_video_pair("sam2.1_t", NARROW, image_size=SMALL)
    tracker = AsTensors(OnnxVideoPredictor(model_of_modules(ours)))
    expected = run_official(official, video, several_objects, check_itself=False)
    compare(expected, run(tracker, video, several_objects))
