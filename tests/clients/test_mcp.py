"""The SDK's client calls the tools, in memory and on stdio, and gets the library's masks: ``make test-clients``."""

import asyncio
import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from PIL import Image
from small_video import video_frames

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor
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
        ("segment_everything", {"path": "clips/clip.mp4"}, "image"),
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


def test_the_command_on_stdio(root):
    """As an MCP client starts it."""
    code = "from sam2fast.cli import main; main()"
    arguments = ["-c", code, "mcp", "--model", "nano", "--device", "cpu", "--root", str(root)]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": ":".join(sys.path)})

    async def ask():
        async with Client(stdio_client(parameters)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            return tools, await client.call_tool("segment_image", {"path": "photo.png", "box": BOX})

    tools, result = asyncio.run(ask())
    assert tools == ["segment_image", "segment_everything", "track_video"]
    assert result.structured_content["objects"][0]["area"] > 400 and len(overlays(result)) == 1
