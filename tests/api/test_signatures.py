"""Every official name has the official signature: parameters, order, kinds, defaults and return type."""

import re
from pathlib import Path

import pytest
from official_signatures import differences, kind, members

from sam2fast.compat.overridden import OF_THE_FLOW

DOCUMENT = Path(__file__).parents[2] / "docs" / "migration.md"

NOT_SO_THERE = "the annotation of the official package is not what it returns"
ANY_DEVICE = "the default is the current device, not one that may not be there"
NARROWER = "the same object under a narrower type"
# Intended differences and their reasons; docs/migration.md documents them.
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


def test_official_signatures():
    """Except those in the table, which all differ."""
    compared = list(members())
    found = {
        m.name: ["missing"] if m.ours is None else told
        for m in compared
        if m.ours is None or (told := differences(m.official, m.ours))
    }
    assert {name: told for name, told in found.items() if name not in DIFFERENT} == {}
    assert {*DIFFERENT} == {*found}
    assert sum(kind(m.official) == "callable" for m in compared) > 150


@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_documented(name):
    *_, owner, last = name.split(".")
    assert (f"`{owner}.{last}`" if owner[0].isupper() else f"`{last}`") in DOCUMENT.read_text(encoding="utf-8")


def test_methods_that_change_the_flow_are_documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = text[text.index("| part of the flow | methods |") : text.index("- The switch takes effect")]
    assert set(re.findall(r"`(\w+)`", listed)) == set(OF_THE_FLOW)
