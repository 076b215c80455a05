"""Prompts of ``sam2fast track``: parsing, merging and checks, without a model."""

import json

import click
import numpy as np
import pytest

from sam2fast.cli.prompt_texts import VIDEO_BOX, VIDEO_MASK, VIDEO_POINT, read_prompt_file
from sam2fast.cli.prompts import Box, Click, Prompts, check_against_video, merge_prompts


def prompt_at(frame, object, clicks=(), box=None, mask=None):
    return Prompts(clicks, box, mask, object, frame)


def point(text):
    return VIDEO_POINT.convert(text, None, None)


def box(text):
    return VIDEO_BOX.convert(text, None, None)


def test_points_boxes_and_masks_as_text():
    assert point("3,1,500,37.5") == prompt_at(3, 1, (Click(500, 37.5, 1),))
    assert point("0,dog,5,6,0") == prompt_at(0, "dog", (Click(5, 6, 0),))
    assert point("0, -7 ,5,6").object == -7
    assert box("2,big dog,1,2,3,4") == prompt_at(2, "big dog", box=Box(1, 2, 3, 4))
    mask = VIDEO_MASK.convert("4,1,a,b.png", None, None)
    assert (mask.frame, mask.object, str(mask.mask)) == (4, 1, "a,b.png")


def test_prompts_of_one_object_and_frame_become_one():
    prompts = merge_prompts(
        [point("5,b,1,2"), point("0,2,3,4"), box("5,b,0,0,9,9"), point("0,1,5,6"), point("5,b,7,8,0")], True
    )
    assert prompts == [
        prompt_at(0, 2, (Click(3, 4, 1),)),
        prompt_at(0, 1, (Click(5, 6, 1),)),
        prompt_at(5, "b", (Click(1, 2, 1), Click(7, 8, 0)), Box(0, 0, 9, 9)),
    ]


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
        prompt_at(0, 1, (Click(1, 2, 1), Click(3, 4.5, 0)), Box(0, 0, 9, 9)),
        prompt_at(2, 7, (Click(1, 2, 1),)),
        prompt_at(3, "dog", mask=tmp_path / "masks/dog.png"),
    ]
    assert read_prompt_file(write(tmp_path / "p.json", entries), "frame") == prompts
    assert (
        read_prompt_file(write(tmp_path / "again.json", [prompt.as_entry() for prompt in prompts]), "frame") == prompts
    )


GOOD = prompt_at(4, 2, (Click(64, 48, 1),), Box(-3, 0, 64, 50))  # a box may reach beyond the edge


def check(*prompts, frames=12):
    masks = {prompt: np.ones((64, 48), dtype=bool) for prompt in prompts if prompt.mask}
    check_against_video(prompts, masks, 48, 64, frames, 2, 9)


def test_prompts_within_the_video():
    for frames in (12, None):  # the length may be unknown
        check(GOOD, frames=frames)


def parse(kind, text):
    return lambda _: kind.convert(text, None, None)


def merge(*parts):
    return lambda _: merge_prompts(parts, each_shows_object=True)


def entry(value):
    good = {"frame": 0, "object": 1, "points": [[1, 2]]}
    return lambda file: read_prompt_file(write(file, [good, value]), "frame")


def content(text):
    def read(file):
        file.write_text(text)
        read_prompt_file(file, "frame")

    return read


def outside(prompt):
    return lambda _: check(GOOD, prompt)


# What is refused, the exit code, and a part of the message.
REFUSED = [
    (parse(VIDEO_POINT, "1,2,3"), 2, "such as 0,1,500,375"),
    (parse(VIDEO_POINT, "0,1,5,6,2"), 2, "label"),
    (parse(VIDEO_POINT, "0.5,1,5,6"), 2, "the frame is '0.5'"),
    (parse(VIDEO_POINT, "0,,5,6"), 2, "an integer or a name"),
    (parse(VIDEO_BOX, "0,1,5,2,5,4"), 2, "no area"),
    (parse(VIDEO_MASK, "0,1,"), 2, "no file"),
    (merge(box("0,1,1,1,2,2"), box("0,1,1,1,3,3")), 2, "object 1 on frame 0 has two boxes"),
    (merge(prompt_at(0, "x", mask="a"), point("0,x,1,2")), 2, "object 'x' on frame 0 has a mask, and points"),
    (merge(point("0,1,1,2,0")), 2, "only points with the label 0"),
    (merge(point("0,1,1,2"), point("4,1,1,2,0")), 2, "frame 4 has only points"),
    (entry({"frame": 0, "object": 1, "point": [[1, 2]]}), 1, "p.json, prompt 2: there is no key 'point'"),
    (entry({"frame": 0, "points": [[1, 2]]}), 1, "object is missing"),
    (entry({"frame": -1, "object": 1}), 1, "the frame is -1"),
    (entry({"frame": 0, "object": 1, "points": [[1, None]]}), 1, "a point has not 2"),
    (entry({"frame": 0, "object": 1, "points": [[1, 2]], "labels": [1, 1]}), 1, "2 labels for 1 points"),
    (entry({"frame": 0, "object": 1, "box": [3, 2, 1, 4]}), 1, "the wrong way round"),
    (parse(VIDEO_BOX, "0,1,5,2,3,4"), 2, "the wrong way round"),
    (entry("0,1,2,3"), 1, "expected an object"),
    *((content(text), 1, "p.json is no") for text in ("", "[]", '{"prompts": 3}', '{"prompts": [], "more": 1}')),
    (outside(point("12,1,5,5")), 1, "whose last frame is 11"),
    (outside(point("1,1,5,5")), 1, "frames to be tracked, 2 to 9"),
    (outside(point("4,1,65,5")), 1, "65,5 lies outside the video (64x48 pixels)"),
    (outside(box("4,dog,65,0,70,10")), 1, "object 'dog' on frame 4: the box 65,0,70,10"),
    (outside(prompt_at(4, 1, mask="m.png")), 1, "m.png is 48x64, but the video 64x48"),
]


@pytest.mark.parametrize(("refused", "code", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_refused(tmp_path, refused, code, message):
    with pytest.raises(click.ClickException) as error:
        refused(tmp_path / "p.json")
    assert error.value.exit_code == code and message in error.value.message
