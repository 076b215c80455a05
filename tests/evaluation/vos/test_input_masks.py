"""Reading the masks of a video, and errors for invalid ones."""

import numpy as np
import pytest
from PIL import Image
from vos_sets import disc, save_png, write_masks

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.evaluation.scores import VOID
from sam2fast.evaluation.vos.input_masks import InputMasks, count_left_out, group_all_objects, group_by_first_frame
from sam2fast.evaluation.vos.listing import inputs_of

NAMES = [f"{t:05d}" for t in range(6)]
DISCS = {0: {1: (30, 30, 18), 3: (80, 50, 20)}, 3: {3: (74, 48, 16)}, 4: {}}


@pytest.mark.parametrize("per_object", [False, True])
def test_both_layouts(tmp_path, per_object):
    write_masks(tmp_path, DISCS, per_object)
    masks = InputMasks(tmp_path, NAMES, per_object)
    assert masks.frames() == ([0, 3] if per_object else [0, 3, 4])
    shown = [masks.visible_objects(0), masks.visible_objects(0, known={1}), masks.visible_objects(3)]
    assert shown == [(1, 3), (3,), (3,)]
    found = masks.read(0)
    assert list(found) == [1, 3] and all(mask.dtype == bool for mask in found.values())
    for obj_id, mask in found.items():
        assert np.array_equal(mask, disc(*DISCS[0][obj_id]))
    assert list(masks.read(0, only=[3])) == [3]


def test_numbers_may_be_written_otherwise(tmp_path):
    write_masks(tmp_path, {2: {1: (30, 30, 18)}})
    assert InputMasks(tmp_path, ["0", "1", "2"], False).frames() == [2]
    assert InputMasks(tmp_path, ["a", "00002"], False).frames() == [1]


def test_images_without_a_palette(tmp_path):
    for frame, highest in enumerate((200, 65535)):
        Image.fromarray(np.full((4, 6), highest, dtype=np.uint16)).save(tmp_path / f"{frame:05d}.png")
    Image.fromarray(np.full((4, 6), 65536, dtype=np.int32), "I").save(tmp_path / "00002.tif")
    (tmp_path / "00002.tif").rename(tmp_path / "00002.png")
    masks = InputMasks(tmp_path, NAMES, False)
    assert masks.read(0)[200].all() and masks.read(1)[65535].all() and masks.colours(0) is None
    with pytest.raises(DatasetError, match=r"00002\.png: ids go up to 65536; expected at most 65535"):
        masks.read(2)


def all_prompts(arrivals):
    return [(group.start, [(t, list(found)) for t, found in group.prompts()]) for group in arrivals.groups]


@pytest.mark.parametrize("per_object", [False, True])
def test_late_objects(tmp_path, per_object):
    write_masks(tmp_path, {1: {5: (30, 30, 9)}, 3: {2: (60, 60, 9), 5: (31, 30, 9)}, 4: {2: (61, 60, 9)}}, per_object)
    save_png(tmp_path / ("002/00000.png" if per_object else "00000.png"), np.zeros((90, 120), np.uint8), None)
    masks = InputMasks(tmp_path, NAMES, per_object)
    first = group_by_first_frame(masks, all_masks=False)
    assert first.ids == [2, 5] and first.palette_frame == 4
    assert all_prompts(first) == [(1, [(1, [5])]), (3, [(3, [2])])]
    every = group_by_first_frame(masks, all_masks=True)
    assert all_prompts(every) == [(1, [(1, [5]), (3, [5])]), (3, [(3, [2]), (4, [2])])]


def test_a_late_object_with_the_label_of_void_counts(tmp_path):
    write_masks(tmp_path, {0: {1: (30, 30, 9)}, 2: {VOID: (60, 60, 9)}}, per_object=True)
    assert count_left_out(InputMasks(tmp_path, NAMES, True), only_first=True) == {"late_objects": 1}


ONE, TWO = (30, 30, 9), (60, 60, 9)
LATER = {0: {1: ONE}, 2: {1: ONE, 4: TWO}}


def prompts(folder, discs, per_object=False, group=group_all_objects, all_masks=True):
    write_masks(folder, discs, per_object)
    return all_prompts(group(InputMasks(folder, NAMES, per_object), all_masks))


def test_only_the_first_masks_count_unless_all_do(tmp_path):
    assert prompts(tmp_path, LATER, all_masks=False) == [(0, [(0, [1])])]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda at: prompts(at, LATER), "object 4 of frame 2 .* give --late-objects"),
        (lambda at: prompts(at, {0: {}}), "frame 0 shows no object; .* give --late-objects"),
        (lambda at: prompts(at, {0: {}}, all_masks=False), "frame 0 shows no object; .* give --late-objects"),
        (lambda at: prompts(at, {1: {1: ONE}}, all_masks=False), r"00000\.png; .* give --late-objects"),
        (lambda at: prompts(at, {0: {1: ONE, 2: TWO}, 2: {1: ONE}}, per_object=True), r"002/00002\.png"),
        (lambda at: prompts(at, {9: {1: ONE}}), "no input masks"),
        (lambda at: prompts(at, {9: {1: ONE}}, group=group_by_first_frame), "no input mask shows an object"),
        (lambda at: InputMasks(at, NAMES, True), "no folders of objects"),
        (lambda at: InputMasks(at / "nowhere", NAMES, True), "nowhere"),
        (lambda at: InputMasks(at / "nowhere", NAMES, False), "nowhere"),
    ],
)
def test_refusals(tmp_path, call, word):
    with pytest.raises(DatasetError, match=word):
        call(tmp_path)


def test_inputs_are_known_by_the_content_of_masks(tmp_path):
    """Small files of masks often have the same size."""
    for name in ("video", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "video/0.jpg")
    mask = tmp_path / "masks/0.png"
    mask.write_bytes(b"one")
    first = inputs_of(tmp_path / "video", tmp_path / "masks")
    mask.write_bytes(b"two")
    assert inputs_of(tmp_path / "video", tmp_path / "masks") != first
    mask.write_bytes(b"one")
    assert inputs_of(tmp_path / "video", tmp_path / "masks") == first and first.frames == 1
