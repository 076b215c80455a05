"""A tree of parts from the times of ranges, as text and as plain values."""

import pytest

from sam2fast.profiling import Limits, Part, Profile
from sam2fast.profiling.run import add_parts


@pytest.fixture
def profile() -> Profile:
    """Of two frames."""
    times = [
        ("frame", False, 0.1), ("frame/encode", False, 0.06), ("frame/encode/attention", False, 0.04),
        ("frame", False, 0.06), ("frame/encode", False, 0.04), ("frame/masks", False, 0.015),
        ("frame/masks", False, 0.005),
    ]  # fmt: skip
    root = Part("frame", flops_per_s=1e11)
    add_parts(root, times, {"frame": 4e9, "frame/encode": 2e9, "frame/encode/attention": 2e9, "frame/masks": 0}, 2)
    subject = {"kind": "video", "width": 64, "height": 48, "image_size": 32, "objects": 2}
    return Profile(
        subject | {"first_frame": 8, "frames": 2, "runs": 1}, root, Limits(1e10, {"float32": 1e11}), [0.06, 0.04],
        None, {"processor": "An old CPU", "threads": 2, "torch": "2.13.0", "device": "cpu"},
    )  # fmt: skip


def test_text(profile):
    head, table = profile.as_text().split("\n\n")
    assert "video of 64x48 at 32x32, objects: 2, the average of frames 8 to 9, runs: 1" in head
    assert "An old CPU, threads: 2" in head and "float32 100 GFLOP/s" in head
    assert "frame: 50.00 ms without profiler, 80.00 ms with it (+60.0%)" in head and "CUDA graphs" not in head
    rows = [line.split() for line in table.splitlines()[1:]]
    assert rows == [
        ["frame", "1", "80.00", "20.00", "100.0%", "2.00", "25.0", "25%"],
        ["encode", "1", "50.00", "30.00", "62.5%", "1.00", "20.0", "20%"],
        # 1 GFLOP at 100 GFLOP/s are 10 ms of 20.
        ["attention", "0.5", "20.00", "25.0%", "1.00", "50.0", "50%"],
        ["masks", "1", "10.00", "12.5%"],
        ["copies", "and", "rest", "20.00", "25.0%"],
    ]
    assert "attention" not in profile.as_text(depth=1)


def test_json(profile):
    found = profile.as_json()
    assert found["overhead"] == pytest.approx(0.6) and found["limits"]["flops_per_s"] == {"float32": 1e11}
    encode, masks = found["tree"]["children"]
    assert encode["share"] == pytest.approx(0.625) and masks["fraction_of_the_limit"] is None
    assert encode["children"][0]["fraction_of_the_limit"] == pytest.approx(0.5)


def test_seconds_on_cuda_are_the_devices():
    """The host's for a part without kernels, and for the whole, which waits for the device."""
    root = Part("frame")
    times = [("frame", False, 0.05), ("frame/decode", False, 0.007), ("frame/encode", False, 0.003)]
    times += [("frame", True, 0.038), ("frame/encode", True, 0.03), ("frame/encode", True, 0.005)]
    add_parts(root, times, {}, 1)
    seconds = (root.seconds, root["decode"].seconds, root["encode"].seconds)
    assert seconds == pytest.approx((0.05, 0.007, 0.035)) and root["encode"].calls == 1
