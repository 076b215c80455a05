"""The SDK's client calls the tools, in memory and on stdio, and gets the library's masks: ``make test-clients``."""

import asyncio
import base64
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from PIL import Image
from small_video import video_frames

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, __version__
from sam2fast.cli import main
from sam2fast.demo.clip import encode_mp4
from sam2fast.integrations.mcp import McpLimits, McpTools, make_server
from sam2fast.io.overlay import draw_overlay
from sam2fast.io.rle import decode_rle

FRAMES = video_frames(6)
SIZE = {"width": 128, "height": 128}
BOX = [88, 78, 117, 107]


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """With an image, a video, and links to an image beside it."""
    folder = tmp_path_factory.mktemp("mcp")
    root = folder / "root"
    (root / "clips").mkdir(parents=True)
    Image.fromarray(FRAMES[0]).save(root / "photo.png")
    Image.fromarray(FRAMES[0]).save(folder / "secret.png")
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "up").symlink_to(folder)
    (root / "clips" / "clip.mp4").write_bytes(encode_mp4([Image.fromarray(frame) for frame in FRAMES]))
    (root / "broken.png").write_bytes(b"\x89PNG\r\n")
    (root / "empty.mp4").write_bytes(b"")
    return root


def call(server, tool, **arguments):
    async def ask():
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def server(predictor, root):
    return make_server(McpTools(predictor, [root], McpLimits()))


def overlays(result) -> list[np.ndarray]:
    images = [one for one in result.content if one.type == "image"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one.data)))) for one in images]


def is_near(image, overlay) -> bool:
    """Equal but for the compression as JPEG."""
    return np.abs(image.astype(int) - np.asarray(overlay).astype(int)).mean() < 4


def test_an_image(server, predictor):
    images = SAM2ImagePredictor(predictor)
    images.set_image(FRAMES[0])
    for arguments, given in [
        ({"points": [[30, 40]]}, ([[30, 40]], [1], None, None, True)),
        (
            {"points": [[100, 92], [30, 40]], "labels": [1, 0], "box": BOX},
            ([[100, 92], [30, 40]], [1, 0], BOX, None, False),
        ),
    ]:
        result = call(server, "segment_image", path="photo.png", masks=True, **arguments)
        masks, scores, _ = images.predict(*given)
        mask = masks[scores.argmax()] > 0
        (found,) = result.structured_content["objects"]
        assert np.array_equal(decode_rle(found["rle"]), mask) and found["area"] == mask.sum() > 400
        ys, xs = np.nonzero(mask)
        assert found["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert found["score"] == pytest.approx(scores.max(), abs=1e-4)
        (overlay,) = overlays(result)
        assert is_near(
            overlay, draw_overlay(FRAMES[0], mask[None], given[0], given[1], [given[2]] if given[2] else None)
        )
        assert not is_near(overlay, FRAMES[0]) and result.content[0].type == "text"
        assert SIZE.items() <= result.structured_content.items()
    assert "rle" not in call(server, "segment_image", path="photo.png", box=BOX).structured_content["objects"][0]


def test_everything(server, predictor):
    records = SAM2AutomaticMaskGenerator(predictor).generate(FRAMES[0])
    result = call(server, "segment_everything", path="photo.png", masks=True)
    found = result.structured_content["objects"]
    assert len(found) == len(records) > 0 and len(overlays(result)) == 1
    for one, record in zip(found, records, strict=True):
        assert np.array_equal(decode_rle(one["rle"]), record["segmentation"])
    assert call(server, "segment_everything", path="photo.png", most=0).structured_content == {**SIZE, "objects": []}


PROMPTS = [{"name": "square", "frame": 1, "box": BOX}, {"name": "disc", "frame": 2, "points": [[36, 42]]}]


def test_a_video(server, predictor, root):
    from sam2fast.video_io import read_frames

    with predictor.open_stream() as stream, read_frames(root / "clips" / "clip.mp4", predictor.image_size) as video:
        expected = {}
        for frame in video:
            if frame.index == 0:
                continue
            result = stream.step(frame)
            if frame.index == 1:
                result = stream.add_new_points_or_box("square", box=BOX)
            if frame.index == 2:
                result = stream.add_new_points_or_box("disc", [[36, 42]], [1])
            expected[frame.index] = dict(zip(result.obj_ids, (result.masks[:, 0] > 0).numpy(), strict=True))
    result = call(server, "track_video", path="clips/clip.mp4", prompts=PROMPTS, masks=True)
    found = result.structured_content
    assert [one["frame"] for one in found["frames"]] == [1, 2, 3, 4, 5] and not found["stopped_early"]
    assert SIZE.items() <= found.items()
    for one in found["frames"]:
        masks = {shown["name"]: decode_rle(shown["rle"]) for shown in one["objects"]}
        visible = {name: mask for name, mask in expected[one["frame"]].items() if mask.any()}
        assert masks.keys() == visible.keys() and all(np.array_equal(masks[name], visible[name]) for name in masks)
    assert len(overlays(result)) == 2
    few = call(server, "track_video", path="clips/clip.mp4", prompts=PROMPTS, max_frames=2)
    assert [one["frame"] for one in few.structured_content["frames"]] == [1, 2]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("segment_image", {"path": "photo.png"}, "give a box, 1 to 100 points"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2]] * 101}, "give a box, 1 to 100 points"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2]], "labels": [1, 1]}, "label"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2]], "labels": [2]}, "0 or 1"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2], [129, 3]]}, "(129, 3) is outside the image of 128x"),
        ("segment_image", {"path": "photo.png", "box": [5, 5, 50, 200]}, "(50, 200) is outside the image of 128x"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [PROMPTS[0]] * 2}, "points and box in one"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"name": "a", "points": [[-1, 4]]}]}, "(-1, 4) is out"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2, 3]]}, "points"),
        ("segment_image", {"path": "missing.png", "box": BOX}, "there is no file 'missing.png'"),
        ("segment_image", {"path": "clips", "box": BOX}, "there is no file 'clips'"),
        ("segment_image", {"path": "broken.png", "box": BOX}, "image"),
        ("segment_image", {"path": "../secret.png", "box": BOX}, "is not below"),
        ("segment_image", {"path": "link.png", "box": BOX}, "is not below"),
        ("segment_image", {"path": "up/secret.png", "box": BOX}, "is not below"),
        ("segment_image", {"path": "up/missing.png", "box": BOX}, "is not below"),
        ("segment_image", {"path": "/etc/passwd", "box": BOX}, "is not below"),
        ("segment_image", {"path": "bad\0name", "box": BOX}, "null"),
        ("segment_everything", {"path": "clips/clip.mp4"}, "a video"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": []}, "there are 0 prompts"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"name": "a"}]}, "give a box"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"name": "a", "frame": 9, "box": BOX}]}, "has 6 frames"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"name": "a", "frame": -1, "box": BOX}]}, "frame"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": PROMPTS, "max_frames": 1}, "max_frames 2 to 300"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": PROMPTS, "max_frames": 999}, "max_frames 2 to 300"),
        ("track_video", {"path": "empty.mp4", "prompts": PROMPTS}, "empty.mp4"),
        ("track_video", {"path": "up/secret.mp4", "prompts": PROMPTS}, "is not below"),
    ],
)
def test_what_cannot_be_used(server, tool, arguments, message):
    result = call(server, tool, **arguments)
    assert result.is_error and message in result.content[0].text, result
    assert not call(server, "segment_image", path="photo.png", box=BOX).is_error


def test_limits(predictor, root):
    def limited(**limits):
        return make_server(McpTools(predictor, [root], McpLimits(**limits)))

    small = limited(max_megapixels=0)
    for tool, arguments in (
        ("segment_image", {"path": "photo.png", "box": BOX}),
        ("track_video", {"path": "clips/clip.mp4", "prompts": PROMPTS}),
    ):
        assert "128x128 pixels are more than" in call(small, tool, **arguments).content[0].text
    assert (
        "more than 0 MB" in call(limited(max_megabytes=0), "segment_image", path="photo.png", box=BOX).content[0].text
    )
    late = limited(seconds=1e-9)
    assert "takes too long" in call(late, "segment_everything", path="photo.png").content[0].text
    found = call(late, "track_video", path="clips/clip.mp4", prompts=PROMPTS)
    assert found.structured_content == {**SIZE, "frames": [], "stopped_early": True} and not found.is_error
    few = call(limited(max_frames=3), "track_video", path="clips/clip.mp4", prompts=PROMPTS)
    assert [one["frame"] for one in few.structured_content["frames"]] == [1, 2, 3]
    assert (
        "expected 1 to 1"
        in call(limited(max_objects=1), "track_video", path="clips/clip.mp4", prompts=PROMPTS).content[0].text
    )


def started(root, model, *calls):
    """The server's version, the tools by name, and the results of calls, of the command as an MCP client starts it."""
    code = "from sam2fast.cli import main; main()"
    arguments = ["-c", code, "mcp", "--model", model, "--device", "cpu", "--root", str(root)]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": ":".join(sys.path)})

    async def ask():
        async with Client(stdio_client(parameters)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            return client.server_info.version, tools, [await client.call_tool(*call) for call in calls]

    return asyncio.run(ask())


def run(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output


NAMES = [
    "square 'a/b' \U0001f7e5",
    "\u5706\u76d8 e\u0301 \u0642\u0631\u0635",
]  # quotes, a slash, an emoji, Chinese, Arabic


@pytest.mark.parametrize("model", ["nano", "mini"])
def test_images_and_videos_are_those_of_the_commands(root, tmp_path, model):
    """Masks, scores and names. Mini has another input size for images than for videos."""
    prompts = [dict(one, name=name) for one, name in zip(PROMPTS, NAMES, strict=True)]
    image = "segment_image", {"path": "photo.png", "points": [[30, 40]], "masks": True}
    video = "track_video", {"path": "clips/clip.mp4", "prompts": prompts, "masks": True}
    version, _, (of_image, of_video) = started(root, model, image, video)
    assert version == __version__
    run("segment", root / "photo.png", "--model", model, "--point", "30,40", "--out", tmp_path)
    expected = json.loads((tmp_path / "photo.json").read_text())
    (found,) = of_image.structured_content["objects"]
    assert found["rle"] == expected["rle"] and found["score"] == pytest.approx(expected["score"], abs=1e-4)

    given = [{"frame": one["frame"], "object": one["name"], "box": one.get("box")} for one in prompts]
    given[1] = {"frame": 2, "object": NAMES[1], "points": [[36, 42]]}
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": given}))
    out, clip = tmp_path / "track", root / "clips" / "clip.mp4"
    run("track", clip, "--model", model, "--prompts", tmp_path / "prompts.json", "--stream", "--out", out)
    lines = [json.loads(line) for line in (out / "masks.jsonl").read_text().splitlines()]
    frames = of_video.structured_content["frames"]
    assert [one["frame"] for one in frames] == [line["frame"] for line in lines] == [1, 2, 3, 4, 5]
    for one, line in zip(frames, lines, strict=True):
        visible = [entry for entry in line["objects"] if entry["area"]]
        assert [shown["name"] for shown in one["objects"]] == [entry["id"] for entry in visible]
        for shown, entry in zip(one["objects"], visible, strict=True):
            assert shown["rle"] == entry["rle"] and shown["score"] == pytest.approx(entry["score"], abs=1e-4)
            assert shown["presence"] == pytest.approx(1 / (1 + np.exp(-entry["object_score"])), abs=1e-4)
    assert NAMES[1] in of_video.content[0].text


def test_everything_is_that_of_the_command(root, tmp_path):
    arguments = {"path": "photo.png", "masks": True, "most": 50}
    calls = [("segment_everything", arguments), ("segment_everything", {**arguments, "most": 1})]
    strict = {**arguments, "pred_iou_thresh": 1, "stability_score_thresh": 0.9}
    _, _, (result, one, none) = started(root, "nano", *calls, ("segment_everything", strict))
    run("masks", root / "photo.png", "--model", "nano", "--out", tmp_path)
    expected = json.loads((tmp_path / "masks.json").read_text())["annotations"]
    found = {shown["rle"]["counts"]: shown["score"] for shown in result.structured_content["objects"]}
    assert found == {
        entry["segmentation"]["counts"]: pytest.approx(entry["predicted_iou"], abs=1e-4) for entry in expected
    }
    assert list(found.values()) == sorted(found.values(), reverse=True) and len(found) > 2
    assert "note" not in result.structured_content
    assert (
        one.structured_content["note"] == f"{len(found) - 1} masks with lower scores are left out: raise most, up to 50"
    )
    text = "no mask reaches pred_iou_thresh 1 and stability_score_thresh 0.9: lower them"
    assert none.structured_content == {**SIZE, "objects": [], "note": text} and text in none.content[0].text


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("segment_image", {}, "path is missing"),
        ("segment_image", {"path": 7, "box": BOX}, "path is 7; expected a valid string"),
        ("segment_image", {"path": "photo.png", "point": [1, 2]}, "no argument 'point'; expected path, points, labels"),
        ("segment_image", {"path": "photo.png", "box": [1, 2, 3]}, "box[3] is missing"),
        ("segment_image", {"path": "photo.png", "points": [[1, "x"]]}, "points[0][1] is 'x'; expected a valid number"),
        ("segment_image", {"path": "photo.png", "points": [[1, 2]], "labels": [2]}, "labels[0] is 2; expected 0 or 1"),
        ("segment_everything", {"path": "photo.png", "pred_iou_thresh": 2}, "pred_iou_thresh is 2; expected less than"),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"frame": 0}]}, "prompts[0].name is missing"),
        (
            "track_video",
            {"path": "clips/clip.mp4", "prompts": [{"name": "a", "bbox": BOX}]},
            "prompts[0].bbox is unknown",
        ),
        ("track_video", {"path": "clips/clip.mp4", "prompts": [{"name": "a", "frame": -1}]}, "prompts[0].frame is -1;"),
        ("segment", {"path": "photo.png"}, "segment"),
    ],
)
def test_wrong_arguments_are_plain_sentences(server, tool, arguments, message):
    result = call(server, tool, **arguments)
    text = result.content[0].text
    assert result.is_error and message in text and "http" not in text and "\n" not in text, text


def test_the_page_names_the_arguments(server):
    """The table of docs/mcp.md."""

    async def ask():
        async with Client(server) as client:
            return {tool.name: [*tool.input_schema["properties"]] for tool in (await client.list_tools()).tools}

    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| `")]
    assert {row[1].strip(" `"): re.findall(r"`(\w+)`", row[2]) for row in rows} == asyncio.run(ask())


def test_the_command_on_stdio(root):
    _, tools, (result,) = started(root, "nano", ("segment_image", {"path": "photo.png", "box": BOX}))
    assert [*tools] == ["segment_image", "segment_everything", "track_video"]
    assert result.structured_content["objects"][0]["area"] > 400 and len(overlays(result)) == 1
