"""Implements a Model Context Protocol server: masks of images and videos as tools for language models."""

import base64
import io
import json
import re
import reprlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from sam2fast import __version__
from sam2fast.amg.parameters import THRESHOLDS
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.integrations.models import best_mask
from sam2fast.io.allowed_files import FolderFiles
from sam2fast.io.image_files import read_image_size
from sam2fast.io.overlay import area_of, draw_overlay
from sam2fast.io.rle import encode_rle
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.transforms import to_pixels
from sam2fast.utils.errors import requires
from sam2fast.video_io import read_frames

with requires("the MCP server needs mcp 2: pip install 'sam2fast[mcp]'"):
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import CallToolResult, ImageContent, TextContent
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST_POINTS, OVERLAY_SIDE = 100, 1024  # maximum number of points of a prompt, maximum side of sent images
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Label = Literal[0, 1]  # labels of points: background, foreground
Share = Annotated[float, Field(ge=0, le=1)]
USUAL_FRAMES = 100  # default number of frames that a call tracks


@dataclass(frozen=True)
class McpLimits:
    """The limits of a call."""

    max_megabytes: int = 256
    max_megapixels: int = 50
    max_frames: int = 300
    max_objects: int = 50
    seconds: float = 120.0


class McpPrompt(BaseModel):
    """A prompt that shows an object on a frame of a video."""

    model_config = ConfigDict(extra="forbid")
    name: str
    frame: int = Field(0, ge=0)
    points: list[Point] = []
    labels: list[Label] = []  # defaults to 1 for each point
    box: Box | None = None


class McpTools:
    """The tools of the server. The tools only read files below the roots, and write no files.

    Args:
        predictor: Predictor for videos.
        roots: Folders with the files that may be read.
        limits: Limits of a call.
        images: Predictor for images. Defaults to the model of ``predictor``.
        thresholds: Default thresholds of :meth:`segment_everything`, as arguments of the mask generator.
    """

    def __init__(
        self,
        predictor: SAM2VideoPredictor,
        roots: Sequence[Path],
        limits: McpLimits,
        images: SAM2ImagePredictor | None = None,
        thresholds: Mapping[str, Any] = THRESHOLDS,
    ) -> None:
        self._videos, self._images = predictor, images or SAM2ImagePredictor(predictor)
        self._files, self._limits = FolderFiles(roots, limits.max_megabytes), limits
        self._thresholds = thresholds
        self._encoded = lru_cache(4)(self._images.encode)  # last images, by content of the file

    def segment_image(
        self,
        path: str,
        points: list[Point] | None = None,
        labels: list[Label] | None = None,
        box: Box | None = None,
        masks: bool = False,
    ) -> CallToolResult:
        """Segments one object in an image file. Give points on it (x, y in pixels), a box (x0, y0, x1, y1), or both.

        Labels of points are 1 on the object and 0 beside the object. Returns the width and height of the image,
        and the area, box and score of the best mask. Coordinates are pixels of the image. If masks is true, returns
        the mask's COCO run lengths. Also returns an image with the mask drawn, perhaps scaled down.
        """
        with _as_tool_error():
            features = self._encoded(content := self._image(path))
            height, width = features.size
            prompt = _checked(points or [], labels or [], box, width, height)
            best, score = best_mask(self._images, *prompt, features=features, output_mode="bool")
            overlay = draw_overlay(to_pixels(content).numpy(), best[None], points, prompt[1], [box] if box else None)
            described = [_described("object", best, score, masks)]
            return _result({"width": width, "height": height, "objects": described}, [overlay])

    def segment_everything(
        self,
        path: str,
        most: int = 20,
        masks: bool = False,
        pred_iou_thresh: Share | None = None,
        stability_score_thresh: Share | None = None,
    ) -> CallToolResult:
        """Segments everything in an image file. Returns the results of segment_image for the masks with best scores.

        Returns at most `most` masks. The thresholds are from 0 to 1. Masks below a threshold are left out. If masks
        are left out, a note says so.
        """
        with _as_tool_error():
            pixels = to_pixels(self._image(path)).numpy()
            end = time.monotonic() + self._limits.seconds
            thresholds = {"pred_iou_thresh": pred_iou_thresh, "stability_score_thresh": stability_score_thresh}
            least = {**self._thresholds, **{name: value for name, value in thresholds.items() if value is not None}}

            def check_time(done: int, total: int) -> None:
                if time.monotonic() > end:
                    raise ValueError("it takes too long on this machine; try a smaller image or model")

            generator = SAM2AutomaticMaskGenerator(self._images.model, progress=check_time, **least)
            all_records = generator.generate(pixels)
            records = all_records[: max(0, min(most, self._limits.max_objects))]
            drawn = np.array([one["segmentation"] for one in records]).reshape(-1, *pixels.shape[:2])
            items = zip(range(1, len(records) + 1), drawn, records, strict=True)
            result: dict[str, Any] = {"width": pixels.shape[1], "height": pixels.shape[0]}
            result["objects"] = [_described(str(i), mask, one["predicted_iou"], masks) for i, mask, one in items]
            if not all_records:
                limits = " and ".join(f"{name} {value:g}" for name, value in least.items())
                result["note"] = f"no mask reaches {limits}: lower them"
            elif 0 < len(records) < len(all_records):
                left = len(all_records) - len(records)
                result["note"] = (
                    f"{left} masks with lower scores are left out: raise most, up to {self._limits.max_objects}"
                )
            return _result(result, [draw_overlay(pixels, drawn)])

    def track_video(
        self, path: str, prompts: list[McpPrompt], max_frames: int | None = None, masks: bool = False
    ) -> CallToolResult:
        """Tracks objects through a video file, from the first frame with a prompt, for max_frames or else 100 frames.

        Each prompt has the object's name, a frame from 0, and points (x, y in pixels), a box, or both. Returns the
        width and height of the frames; coordinates are in their pixels. For each frame and visible object it returns
        the area, the box, the score (the mask's predicted IoU) and the presence (the probability that the object is
        visible). It also returns images of the first and the last frame, which may be smaller.
        """
        with _as_tool_error():
            first, max_frames = self._check_frames(prompts, max_frames)
            end, frames, shown = time.monotonic() + self._limits.seconds, list[dict[str, Any]](), list[Any]()
            video = read_frames(self._files.find(path), self._videos.image_size)
            # Opens the stream as ``sam2fast track --stream`` does for a video of this length.
            is_short = video.count is not None and video.count < MemoryRules.of(self._videos).max_pointers
            with video, self._videos.open_stream(num_frames=video.count if is_short else None) as stream:
                size = video.width, video.height
                self._check_size(*size)
                checked = [(one, _checked(one.points, one.labels, one.box, *size)) for one in prompts]
                for frame in video:
                    count = frame.index + 1
                    is_late = time.monotonic() > end
                    if is_late or frame.index >= first + max_frames:
                        break
                    result = stream.step(frame)
                    if frame.index < first:
                        continue
                    for one, (points, labels, box) in checked:
                        if one.frame == frame.index:
                            result = stream.add_new_points_or_box(one.name, points, labels, box=box)
                    mask_arrays = (result.masks[:, 0] > 0).cpu().numpy()
                    ious, presence = result.scores.iou.tolist(), result.scores.object_score.sigmoid().tolist()
                    items = zip(result.obj_ids, mask_arrays, ious, presence, strict=True)
                    described = [
                        {**_described(name, mask, iou, masks), "presence": round(present, 4)}
                        for name, mask, iou, present in items
                        if mask.any()
                    ]
                    frames.append({"frame": frame.index, "objects": described})
                    shown[1:] = [(frame.rgb, mask_arrays)]
            last = max(one.frame for one in prompts)
            if not is_late and last > first + len(frames) - 1:
                raise ValueError(f"there is no frame {last}; the video has {count} frames")
            tracked = {"width": size[0], "height": size[1], "frames": frames, "stopped_early": is_late}
            return _result(tracked, [draw_overlay(*one) for one in shown])

    def _check_frames(self, prompts: Sequence[McpPrompt], max_frames: int | None) -> tuple[int, int]:
        """Returns the first prompted frame, and the number of frames to track."""
        if not 1 <= len(prompts) <= self._limits.max_objects:
            raise ValueError(f"there are {len(prompts)} prompts; expected 1 to {self._limits.max_objects}")
        if len({(one.name, one.frame) for one in prompts}) < len(prompts):
            raise ValueError("two prompts have the same name and frame: give their points and box in one")
        first, last = min(one.frame for one in prompts), max(one.frame for one in prompts)
        most = self._limits.max_frames
        max_frames = min(USUAL_FRAMES, most) if max_frames is None else max_frames
        if not last - first < max_frames <= most:
            raise ValueError(f"prompts on frames {first} to {last} need max_frames {last - first + 1} to {most}")
        return first, max_frames

    def _image(self, path: str) -> bytes:
        content = self._files.find(path).read_bytes()
        self._check_size(*read_image_size(content))
        return content

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_megapixels * 1_000_000:
            raise ValueError(f"{width}x{height} pixels are more than {self._limits.max_megapixels} million")


class PlainErrorServer(MCPServer):
    """A server that describes wrong arguments in plain sentences."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        for tool in await self.list_tools():
            if tool.name == name and (
                unknown := [key for key in arguments if key not in tool.input_schema["properties"]]
            ):
                known = ", ".join(tool.input_schema["properties"])
                raise ToolError(f"{name} has no argument {unknown[0]!r}; expected {known}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            wrong = "; ".join(map(_sentence, error.__cause__.errors(include_url=False)))
            raise ToolError(f"{name} was called with wrong arguments: {wrong}") from None


def _sentence(error: Mapping[str, Any]) -> str:
    """Describes what is wrong with an argument, from pydantic's error."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{name} is {'missing' if error['type'] == 'missing' else 'unknown'}"
    expected = re.sub("^(Input|Tuple|List) should (be|have)", "expected", error["msg"])
    return f"{name} is {reprlib.repr(error['input'])}; {expected}"


def make_server(tools: McpTools) -> MCPServer:
    """Returns the server with the tools. The server's method ``run()`` serves on stdin and stdout."""
    instructions = "Masks of objects in images and videos, by SAM 2."
    server = PlainErrorServer("sam2fast", instructions=instructions, version=__version__, log_level="WARNING")
    for tool in (tools.segment_image, tools.segment_everything, tools.track_video):
        server.tool()(tool)
    return server


def _checked(
    points: Sequence[Point], labels: Sequence[int], box: Box | None, width: int, height: int
) -> tuple[Any, Any, Any]:
    """Checks a prompt. Returns the prompt as arguments of the predictors."""
    if not points and box is None or len(points) > MOST_POINTS:
        raise ValueError(f"there are {len(points)} points; give a box, 1 to {MOST_POINTS} points, or both")
    for x, y in [*points, *((box[:2], box[2:]) if box else ())]:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"({x:g}, {y:g}) is outside the image of {width}x{height} pixels")
    return points or None, (labels or [1] * len(points)) or None, box


def _described(name: str, mask: np.ndarray, score: float, with_mask: bool) -> dict[str, Any]:
    area = area_of(mask)
    sides = None if area is None else [area[1].start, area[0].start, area[1].stop, area[0].stop]
    description = {"name": name, "area": int(mask.sum()), "box": sides, "score": round(score, 4)}
    return {**description, "rle": encode_rle(mask)} if with_mask else description


def _result(result: dict[str, Any], overlays: Sequence[Image.Image]) -> CallToolResult:
    """Returns the result as JSON for programs, as text, and as images."""
    content: list[Any] = [TextContent(type="text", text=json.dumps(result, ensure_ascii=False, allow_nan=False))]
    for overlay in overlays:
        overlay.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
        overlay.save(file := io.BytesIO(), "jpeg", quality=85)
        data = base64.b64encode(file.getvalue()).decode()
        content.append(ImageContent(type="image", data=data, mime_type="image/jpeg"))
    return CallToolResult(content=content, structured_content=result)


@contextmanager
def _as_tool_error() -> Iterator[None]:
    """Raises errors that the caller can fix as ToolError, since the language model reads the text of this error."""
    try:
        yield
    except (ValueError, TypeError, LookupError, SyntaxError, OSError, Image.DecompressionBombError) as error:
        raise ToolError(str(error)) from error
