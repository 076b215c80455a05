"""Every official name has the official signature: parameters, order, kinds, defaults and return type."""

import re
from pathlib import Path

import pytest
from official_signatures import Member, differences, kind, members

from sam2fast.compat.private_api import OF_THE_FLOW

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"

NOT_SO_THERE = "the annotation of the original is not what it returns"
ANY_DEVICE = "the default is the current device, not one that may not be there"
NARROWER = "the same object under a narrower type"
# Intended differences and their reasons; docs/compatibility.md documents them.
DIFFERENT = {
    "sam2.modeling.backbones.hieradet.Hiera": "no weights_path, a file on Meta's own storage",
    "sam2.modeling.backbones.hieradet.MultiScaleBlock": "norm and activation are the defaults, which no model changes",
    "sam2.modeling.memory_encoder.MemoryEncoder.forward": NOT_SO_THERE,
    "sam2.modeling.sam.mask_decoder.MaskDecoder.forward": NOT_SO_THERE,
    "sam2.modeling.sam.mask_decoder.MaskDecoder.predict_masks": NOT_SO_THERE,
    "sam2.modeling.sam2_utils.sample_box_points": NOT_SO_THERE,
    "sam2.sam2_video_predictor.SAM2VideoPredictorVOS._compile_all_components": "nothing is compiled",
    "sam2.utils.amg.batch_iterator": NARROWER,
    "sam2.utils.amg.box_xyxy_to_xywh": NARROWER,
    "sam2.utils.amg.coco_encode_rle": NARROWER,
    "sam2.utils.amg.mask_to_rle_pytorch": NARROWER,
    "sam2.utils.misc.load_video_frames": ANY_DEVICE,
    "sam2.utils.misc.load_video_frames_from_jpg_images": ANY_DEVICE,
    "sam2.utils.misc.load_video_frames_from_video_file": ANY_DEVICE,
}


@pytest.fixture(scope="module")
def compared() -> list[Member]:
    return list(members())


def test_official_signatures(compared):
    """Except those in the table, which all differ."""
    found = {
        m.name: ["missing"] if m.ours is None else told
        for m in compared
        if m.ours is None or (told := differences(m.official, m.ours))
    }
    unexpected = {name: told for name, told in found.items() if name not in DIFFERENT}
    assert not unexpected
    assert {*DIFFERENT} == {*found}


def test_enough_is_compared(compared):
    """A search that finds no names would find no differences either."""
    assert sum(kind(m.official) == "callable" for m in compared) > 150
    assert {"sam2.build_sam.build_sam2", "sam2.modeling.sam2_base.SAM2Base.track_step"} <= {m.name for m in compared}


@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_documented(name):
    *_, owner, last = name.split(".")
    assert (f"`{owner}.{last}`" if owner[0].isupper() else f"`{last}`") in DOCUMENT.read_text(encoding="utf-8")


def test_methods_that_change_the_flow_are_documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = text[text.index("| part of the flow | methods |") : text.index("- The switch takes effect")]
    assert set(re.findall(r"`(\w+)`", listed)) == set(OF_THE_FLOW)


def given(official, ours) -> list[str]:
    return differences(official, ours)


def test_the_comparison_notices_changes():
    def official(a, b, c=1, *, d=None): ...

    assert given(official, lambda a, b, c=1, *, d=None: ...) == []
    assert given(official, lambda a, b, c=1, e=2, *, d=None, f=3, **kwargs: ...) == []
    assert given(official, lambda b, a, c=1, *, d=None: ...) == ["a stands elsewhere", "b stands elsewhere"]
    assert given(official, lambda a, b, c=2, *, d=None: ...) == ["c=2 instead of 1"]
    assert given(official, lambda a, b, c=True, *, d=None: ...) == ["c=True instead of 1"]
    assert given(official, lambda a, b, *, c=1, d=None: ...) == ["c is keyword-only"]
    assert given(official, lambda a, b, e, c=1, *, d=None: ...) == ["c stands elsewhere", "e is needed"]
    assert given(official, lambda a, c=1, *, d=None: ...) == ["no b", "c stands elsewhere"]
    assert given(lambda **kwargs: ..., lambda: ...) == ["no variadic keyword parameters"]
    assert given(lambda a: ..., property(lambda a: ...)) == ["a property instead of a callable"]
    assert given(official, staticmethod(official)) == ["a staticmethod instead of a callable"]
