"""Prompts of ``sam2fast track``: parsing, merging and checks, without a model."""

import json

import click
import numpy as np
import pytest

from sam2fast.cli.prompt_options import Box, Click
from sam2fast.cli.track_request import (
    MaskType,
    PointType,
    TrackBoxType,
    TrackPrompt,
    check_against_video,
    merge_prompts,
    read_prompt_file,
)
from sam2fast.cli.user_errors import UserError


def point(text):
    return PointType().convert(text, None, None)


def box(text):
    return TrackBoxType().convert(text, None, None)


def test_points_boxes_and_masks_as_text():
    assert point("3,1,500,37.5") == TrackPrompt(3, 1, (Click(500, 37.5, 1),))
    assert point("0,dog,5,6,0") == TrackPrompt(0, "dog", (Click(5, 6, 0),))
    assert point("0, -7 ,5,6").object == -7
    assert box("2,big dog,1,2,3,4") == TrackPrompt(2, "big dog", box=Box(1, 2, 3, 4))
    mask = MaskType().convert("4,1,a,b.png", None, None)
    assert (mask.frame, mask.object, str(mask.mask)) == (4, 1, "a,b.png")


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (PointType, "1,2,3", "such as 0,1,500,375"),
        (PointType, "0,1,5,6,2", "label"),
        (PointType, "0.5,1,5,6", "the frame is '0.5'"),
        (PointType, "0,,5,6", "an integer or a name"),
        (TrackBoxType, "0,1,5,2,5,4", "no area"),
        (MaskType, "0,1,", "no file"),
    ],
)
def test_invalid_prompts(kind, text, reason):
    with pytest.raises(click.BadParameter) as error:
        kind().convert(text, None, None)
    assert reason in error.value.message and repr(text) in error.value.message


def test_prompts_of_one_object_and_frame_become_one():
    prompts = merge_prompts(
        [point("5,b,1,2"), point("0,2,3,4"), box("5,b,0,0,9,9"), point("0,1,5,6"), point("5,b,7,8,0")], True
    )
    assert prompts == [
        TrackPrompt(0, 2, (Click(3, 4, 1),)),
        TrackPrompt(0, 1, (Click(5, 6, 1),)),
        TrackPrompt(5, "b", (Click(1, 2, 1), Click(7, 8, 0)), Box(0, 0, 9, 9)),
    ]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([box("0,1,1,1,2,2"), box("0,1,1,1,3,3")], "object 1 on frame 0 has two boxes"),
        ([TrackPrompt(0, "x", mask="a"), point("0,x,1,2")], "object 'x' on frame 0 has a mask, and points"),
        ([point("0,1,1,2,0")], "only points with the label 0"),
        ([point("0,1,1,2"), point("4,1,1,2,0")], "frame 4 has only points with the label 0"),
    ],
)
def test_contradictory_prompts(parts, reason):
    with pytest.raises(click.UsageError) as error:
        merge_prompts(parts, each_shows_object=True)
    assert reason in error.value.message


def write(path, entries):
    path.write_text(json.dumps({"prompts": entries}))
    return path


def test_prompt_file(tmp_path):
    entries = [
        {"frame": 0, "object": 1, "points": [[1, 2], [3, 4.5]], "labels": [1, 0], "box": [0, 0, 9, 9]},
        {"frame": 2, "object": "7", "points": [[1, 2]]},
        {"frame": 3, "object": "dog", "mask": "masks/dog.png"},
    ]
    prompts = [
        TrackPrompt(0, 1, (Click(1, 2, 1), Click(3, 4.5, 0)), Box(0, 0, 9, 9)),
        TrackPrompt(2, 7, (Click(1, 2, 1),)),
        TrackPrompt(3, "dog", mask=tmp_path / "masks/dog.png"),
    ]
    assert read_prompt_file(write(tmp_path / "p.json", entries)) == prompts
    assert read_prompt_file(write(tmp_path / "again.json", [prompt.as_json() for prompt in prompts])) == prompts


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"frame": 0, "object": 1, "point": [[1, 2]]}, "no key 'point'"),
        ({"frame": 0, "points": [[1, 2]]}, "frame or object is missing"),
        ({"frame": -1, "object": 1}, "the frame is -1"),
        ({"frame": 0, "object": 1, "points": [[1, None]]}, "a point has not 2"),
        ({"frame": 0, "object": 1, "points": [[1, 2]], "labels": [1, 1]}, "2 labels for 1 points"),
        ({"frame": 0, "object": 1, "box": [3, 2, 1, 4]}, "no area"),
        ("0,1,2,3", "expected an object"),
    ],
)
def test_invalid_entries(tmp_path, entry, reason):
    good = {"frame": 0, "object": 1, "points": [[1, 2]]}
    with pytest.raises(UserError) as error:
        read_prompt_file(write(tmp_path / "p.json", [good, entry]))
    assert reason in error.value.message and "p.json, prompt 2" in error.value.message


@pytest.mark.parametrize("text", ["", "[]", '{"prompts": 3}', '{"prompts": [], "more": 1}'])
def test_invalid_prompt_files(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match="p.json is no"):
        read_prompt_file(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (point("12,1,5,5"), "object 1 on frame 12 is beyond the end of the video, which has 12 frames"),
        (point("1,1,5,5"), "outside of the frames to be tracked, 2 to 9"),
        (point("4,1,65,5"), "the point 65,5 lies outside the video (64x48)"),
        (box("4,dog,65,0,70,10"), "object 'dog' on frame 4: the box 65,0,70,10 lies outside the video"),
        (TrackPrompt(4, 1, mask="m.png"), "the mask m.png is 48x64, but the video 64x48"),
    ],
)
def test_prompts_outside_of_the_video(prompt, reason):
    good = TrackPrompt(4, 2, (Click(64, 48, 1),), Box(-3, 0, 64, 50))  # a box may reach beyond the edge
    masks = {prompt: np.ones((64, 48), dtype=bool)} if prompt.mask else {}
    for frames in (12, None):  # the length may be unknown
        check_against_video([good], masks, 48, 64, frames, 2, 9)
    with pytest.raises(UserError) as error:
        check_against_video([good, prompt], masks, 48, 64, 12, 2, 9)
    assert reason in error.value.message
