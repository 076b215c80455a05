"""A profile as text, as a chart, and as plain values."""

import io
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from sam2fast.profiling import Limits, Part, Profile
from sam2fast.profiling.report import as_text, draw


@pytest.fixture
def profile() -> Profile:
    layer = Part("layer 0", calls=1, seconds=0.02, flops=1e9)
    attention = Part("attention", calls=1, seconds=0.03, flops=1e9, children={"layer 0": layer})
    encode = Part("encode", calls=1, seconds=0.05, flops=1e9, children={"attention": attention})
    masks = Part("masks", calls=2, seconds=0.01)
    root = Part("frame", calls=1, seconds=0.08, flops=1e9, children={"encode": encode, "masks": masks})
    return Profile(
        subject={
            "kind": "video", "width": 64, "height": 48, "image_size": 32, "objects": 2, "first_frame": 8, "frames": 5,
            "runs": 1,
        },
        root=root,
        limits=Limits(1e10, {"float32": 1e11}),
        profiled=[0.083, 0.084, 0.09],
        plain=[0.07, 0.08, 0.09],
        as_it_is=None,
        machine={"processor": "An old CPU", "threads": 2, "torch": "2.13.0", "device": "cpu"},
    )  # fmt: skip


def cells(text: str) -> dict[str, list[str]]:
    return {line.split("  ")[0] if line[0] != " " else line.strip().split("  ")[0]: line.split() for line in text}


def test_text(profile):
    head, table = as_text(profile).split("\n\n")
    assert "video of 64x48 at 32x32, objects: 2, the average of frames 8 to 12, runs: 1" in head
    assert "frame: 80.00 ms as a whole, 84.00 ms with its parts timed (+5.0%)" in head
    assert "named parts account for 75.0%" in head and "An old CPU, threads: 2" in head
    assert "CUDA graphs" not in head
    rows = cells(table.splitlines())
    assert rows["frame"] == ["frame", "1", "80.00", "20.00", "100.0%", "1.00", "12.5", "12%"]
    # 1 GFLOP at 100 GFLOP/s are 10 ms of 20.
    assert rows["layer 0"] == ["layer", "0", "1", "20.00", "25.0%", "1.00", "50.0", "50%"]
    assert rows["masks"] == ["masks", "2", "10.00", "12.5%"]
    assert rows["copies and rest"] == ["copies", "and", "rest", "20.00", "25.0%"]


def test_depth(profile):
    text = as_text(profile, depth=2)
    assert "attention" in text and "layer 0" not in text
    assert "layer 0" in as_text(profile, depth=None)


def test_the_predictor_as_it_is(profile):
    fields = {name: getattr(profile, name) for name in profile.__dataclass_fields__}
    assert "by CUDA graphs, which have no parts: 20.00 ms" in as_text(
        Profile(**{**fields, "as_it_is": [0.01, 0.02, 0.03]})
    )


def test_charts(profile):
    chart = Image.open(io.BytesIO(draw(profile)))
    assert chart.format == "PNG" and chart.width > 1000
    assert len(chart.convert("RGB").getcolors(1 << 24)) > 10
    vectors = draw(profile, ".svg")
    assert ElementTree.fromstring(vectors).tag.endswith("svg")
    comments = [line for line in vectors.decode().splitlines() if "<!--" in line]
    for name in ("frame  80.0 ms", "encode  50.0 ms", "attention  30.0 ms", "layer 0  20.0 ms", "masks  10.0 ms"):
        assert any(name in line for line in comments), name


def test_json(profile):
    found = profile.as_json()
    assert found["tree"]["name"] == "frame" and found["overhead"] == pytest.approx(0.05)
    encode, masks = found["tree"]["children"]
    assert encode["share"] == pytest.approx(0.625) and masks["fraction_of_the_limit"] is None
    layer = encode["children"][0]["children"][0]
    assert layer["flops_per_s"] == pytest.approx(5e10) and layer["fraction_of_the_limit"] == pytest.approx(0.5)
    assert layer["seconds_at_the_limit"] == pytest.approx(0.01)
