"""A program's own function in the place of ``load_video_frames``."""

import copy
import pickle
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
import torch
from parity import NARROW
from small_sam3 import small_sam3
from small_video import SIZE, track, video_frames
from video import TOLERANCE, build_video_pair

from sam2fast import SAM2VideoPredictor
from sam2fast.compat import misc
from sam2fast.utils.testing import relative_error
from sam2fast.video_io import open_frames

OVERRIDES = [f"++model.image_size={SIZE}", *NARROW]

# As FiftyOne does: the function is replaced in its own module while the model is built, and takes an object of its own.
PROGRAM = """
    import importlib, inspect, sys
    import numpy as np, torch
    from unittest import mock

    package, checkpoint, result, *overrides = sys.argv[1:]
    frames = np.load("frames.npy")

    def load(video_path, image_size, offload_video_to_cpu, img_mean=(0.485, 0.456, 0.406),
             img_std=(0.229, 0.224, 0.225), async_loading_frames=False, compute_device=None):
        count, reader = video_path
        images = torch.stack([torch.from_numpy(next(reader)) for _ in range(count)]).permute(0, 3, 1, 2) / 255
        images = torch.nn.functional.interpolate(images, (image_size, image_size), mode="bilinear")
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (img_mean, img_std))
        return (images.to(compute_device) - mean) / std, *frames.shape[1:3]

    misc = importlib.import_module(f"{package}.utils.misc")
    with mock.patch.object(inspect.getmodule(misc.load_video_frames), "load_video_frames", load):
        build = importlib.import_module(f"{package}.build_sam").build_sam2_video_predictor
        predictor = build("configs/sam2.1/sam2.1_hiera_t.yaml", checkpoint, "cpu", hydra_overrides_extra=overrides)
    if "oracle" in sys.modules:
        from float32_memory import Float32Memory
        sys.modules["sam2.sam2_video_predictor"].torch = Float32Memory()
    state = predictor.init_state((len(frames), iter(frames)))
    predictor.add_new_points_or_box(state, 0, 1, box=np.array([10, 20, 50, 60]))
    predictor.add_new_points_or_box(state, 2, 2, points=[[100, 92]], labels=[1])
    np.save(result, np.stack([masks.numpy() for _, _, masks in predictor.propagate_in_video(state)]))
"""


def test_a_program_that_replaces_it_while_the_model_is_built_gets_the_originals_masks(tmp_path):
    np.save(tmp_path / "frames.npy", np.stack([frame[:100] for frame in video_frames(5)]))
    official, _ = build_video_pair(overrides=NARROW, image_size=SIZE)
    torch.save({"model": official.state_dict()}, tmp_path / "model.pt")

    def masks(first, package):
        script = f"import sys; sys.path[:0] = {sys.path!r}\n{first}\n" + textwrap.dedent(PROGRAM)
        command = [sys.executable, "-c", script, package, "model.pt", "masks.npy", *OVERRIDES]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return torch.from_numpy(np.load(tmp_path / "masks.npy"))

    expected = masks("import oracle", "sam2")
    assert expected.shape == (5, 2, 1, 100, SIZE)
    assert (expected > 0).any() and (expected < 0).any()
    ours = masks("import sam2fast.as_sam2", "sam2")
    assert relative_error(ours, expected) < TOLERANCE
    assert torch.equal(masks("", "sam2fast"), ours)


@pytest.fixture(scope="module")
def predictor():
    return nano()


def nano():
    overrides = [f"++model.image_size={SIZE}"]
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu", hydra_overrides_extra=overrides)


FRAMES = video_frames(3)
_official_loader = misc.load_video_frames


def load(video_path, **arguments):
    """Takes a name, as no video is opened by."""
    assert video_path == "a name"
    assert arguments.keys() == {"image_size", "offload_video_to_cpu", "async_loading_frames", "compute_device"}
    return _official_loader(FRAMES, **arguments)


@pytest.mark.parametrize("module", ["compat.misc", "utils.misc", "sam2_video_predictor"])
def test_it_is_used_while_it_is_replaced(predictor, module):
    expected = track(predictor, FRAMES)
    with mock.patch(f"sam2fast.{module}.load_video_frames", load):
        masks = track(predictor, "a name")
    assert len(masks) == 3 and all(map(torch.equal, masks, expected))
    with pytest.raises(FileNotFoundError, match="a name"):
        predictor.init_state("a name")


def test_it_gets_the_mean_and_deviation_of_sam_3():
    model, loader = small_sam3(), mock.Mock(side_effect=_official_loader)
    expected = model.init_state(FRAMES)["images"]
    with mock.patch.object(misc, "load_video_frames", loader):
        frames = model.init_state(FRAMES)["images"]
    loader.assert_called_once()
    assert torch.equal(torch.stack(list(frames)), torch.stack(list(expected)))


def test_a_model_keeps_the_function_it_was_built_with():
    with mock.patch.object(misc, "load_video_frames", load):
        built = nano()
    assert built.init_state("a name").num_frames == 3
    assert pickle.loads(pickle.dumps(built)).init_state("a name").num_frames == 3
    newer = mock.Mock(side_effect=load)
    with mock.patch.object(misc, "load_video_frames", newer):
        built.init_state("a name")
    newer.assert_called_once()
    with pytest.raises(FileNotFoundError):
        nano().init_state("a name")


def test_frames(predictor):
    """They are the function's images, and have what other frames have."""
    frames = open_frames(FRAMES, SIZE)
    with mock.patch.object(misc, "load_video_frames", load):
        state = predictor.init_state("a name")
    images = state["images"]
    assert images.shape == frames.shape and images.time(0) is None and state["video_height"] == SIZE
    for copied in (images, copy.deepcopy(images), pickle.loads(pickle.dumps(images))):
        assert torch.equal(torch.stack(list(copied)), torch.stack(list(frames)))
        assert all(torch.equal(copied.pixels(t), frames.pixels(t)) for t in range(3))
    images.close()
    with pytest.raises(IndexError):
        images[0]
    with mock.patch.object(misc, "load_video_frames", load), pytest.raises(ValueError, match="window"):
        predictor.init_state("a name", window=(0, 1))
