"""Implements an ML backend for Label Studio over HTTP: masks for images, boxes and outlines for videos."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np

from sam2fast.integrations.models import best_mask
from sam2fast.io.allowed_files import HostFiles
from sam2fast.results.label_studio import (
    Control,
    ShownFrames,
    box_around,
    controls_of,
    corners_of,
    find_control,
    image_region,
    keyframes,
    vector_around,
)
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.errors import requires

with requires("the Label Studio backend needs flask: pip install 'sam2fast[label-studio]'"):
    from flask import Flask, jsonify, request
    from werkzeug.exceptions import HTTPException

VERSION = "sam2fast"
KEYS_USED = 4  # maximum number of prompts of an object: the last boxes
Region = Mapping[str, Any]  # a region of Label Studio, from JSON


def reader_of(host: str, token: str | None = None, max_megabytes: int = 256) -> Callable[[Any], bytes]:
    """Returns a function that reads data URIs and files of Label Studio at ``host``. Only ``host`` gets the token."""
    files = HostFiles(host, max_megabytes)

    def read(address: Any) -> bytes:
        if token is None:
            return files.read(address, {})
        if token.count(".") != 2:
            return files.read(address, {"Authorization": f"Token {token}"})
        # A personal token is exchanged for an access token that is valid for minutes.
        body, headers = json.dumps({"refresh": token}).encode(), {"Content-Type": "application/json"}
        access = json.loads(files.read("api/token/refresh", headers, body))["access"]
        return files.read(address, {"Authorization": f"Bearer {access}"})

    return read


class LabelStudioBackend:
    """Answers tasks with masks. Several threads may use a backend at the same time. Videos are tracked one by one.

    Args:
        predictor: Predictor for videos.
        read: Function that returns the content of the file at an address; see :func:`reader_of`.
        images_kept: Maximum number of embeddings in memory. An embedding has 16 MiB for an input of 1024x1024 pixels.
        max_frames: Maximum number of frames of a video that a request tracks.
        images: Predictor for images. Defaults to the model of ``predictor``.
    """

    def __init__(
        self,
        predictor: SAM2VideoPredictor,
        read: Callable[[Any], bytes],
        images_kept: int = 16,
        max_frames: int = 50,
        images: SAM2ImagePredictor | None = None,
    ) -> None:
        self._videos, self._images, self._read = predictor, images or SAM2ImagePredictor(predictor), read
        self._encoded = lru_cache(images_kept)(self._images.encode)  # cached by the content of the file
        self._max_frames, self._tracking = max_frames, Lock()

    def predict(self, task: Region, interface: str, prompts: Sequence[Region]) -> dict[str, Any]:
        """Returns the prediction for a task. Without prompts, the prediction is empty.

        Args:
            interface: Labelling interface, in XML.
            prompts: Regions: keypoints and rectangles of an image, or boxes on frames of a video.

        Raises:
            ValueError, LookupError, TypeError: If the task, the interface or a prompt cannot be used.
        """
        controls, regions = controls_of(interface), list[dict[str, Any]]()
        if any(one["type"] == "videorectangle" for one in prompts):
            regions = self._track(task, controls, prompts)
        elif prompts:
            regions = [self._segment(task, controls, prompts)]
        scores = [one["score"] for one in regions if "score" in one]
        return {"result": regions, "score": min(scores, default=0.0), "model_version": VERSION}

    def _segment(self, task: Region, controls: list[Control], prompts: Sequence[Region]) -> dict[str, Any]:
        for one in prompts:
            if one["type"] not in ("keypointlabels", "rectanglelabels"):
                raise ValueError(f"a prompt is {one['type']}; expected keypointlabels or rectanglelabels")
            if one.get("image_rotation"):
                raise ValueError(f"the image is rotated by {one['image_rotation']} degrees; rotate it back to prompt")
        last = prompts[-1]
        if not last["value"].get(last["type"]):
            raise ValueError("a prompt has no label; choose a label first")
        label = str(last["value"][last["type"]][0])
        control = find_control(controls, last["to_name"], ("BrushLabels", "PolygonLabels"), label)
        features = self._encoded(self._read(task["data"][control.data]))
        height, width = features.size
        points, labels, box = list[list[float]](), list[int](), None
        for one in prompts:
            value = one["value"]
            if one["type"] == "keypointlabels":
                points.append([value["x"] * width / 100, value["y"] * height / 100])
                labels.append(int(one.get("is_positive", 1)))
            else:
                box = corners_of(value, width, height)
        best = best_mask(self._images, points, labels, box, features=features, output_mode="bool")
        return {"id": uuid4().hex[:10], **image_region(control, best[0], label, best[1])}

    def _track(self, task: Region, controls: list[Control], prompts: Sequence[Region]) -> list[dict[str, Any]]:
        """Returns the regions of the prompts on later frames, scored by the mean predicted IoU of their masks."""
        regions = {one["id"]: one for one in prompts if one["type"] == "videorectangle"}
        to_name, first_value = (next(iter(regions.values()))[key] for key in ("to_name", "value"))
        data = find_control(controls, to_name, ["VideoRectangle"]).data
        has_vectors = any((one.tag, one.to_name) == ("VideoVectorLabels", to_name) for one in controls)
        count, seconds = first_value["framesCount"], first_value["duration"] / first_value["framesCount"]
        keys = {name: sorted(one["value"]["sequence"], key=lambda key: key["frame"]) for name, one in regions.items()}
        shown = {name: of[-KEYS_USED:] for name, of in keys.items() if of and of[-1].get("enabled", True)}
        last = {name: of[-1]["frame"] for name, of in shown.items()}
        frames = {name: range(begin + 1, min(begin + self._max_frames, count) + 1) for name, begin in last.items()}
        boxes, outlines = defaultdict[Any, dict[int, Region]](dict), defaultdict[Any, dict[int, Region]](dict)
        ious = defaultdict[Any, list[float]](list)
        if shown:
            timeline = range(min(last.values()), max(of.stop for of in frames.values()))
            with self._tracking:
                for frame, masks in self._masks(self._read(task["data"][data]), shown, timeline, count, seconds):
                    for name, (mask, iou) in masks.items():
                        if frame in frames[name] and mask.any():
                            boxes[name][frame], outlines[name][frame] = box_around(mask), vector_around(mask)
                            ious[name].append(iou)
        results = []
        for name, one in regions.items():
            value, of = one["value"], frames.get(name, range(0))
            sequence = keyframes(keys[name], of, boxes[name], seconds)
            score = {"score": sum(ious[name]) / len(ious[name])} if ious[name] else {}
            results.append({**one, "value": {**value, "sequence": sequence}, **score})
            sequence = keyframes([], of, outlines[name], seconds)
            if has_vectors and sequence and value.get("labels"):
                vectors = find_control(controls, to_name, ["VideoVectorLabels"], str(value["labels"][0]))
                named = {"from_name": vectors.name, "to_name": vectors.to_name, "type": "videovectorlabels"}
                results.append({"id": f"{name}-outline", **named, "value": {**value, "sequence": sequence}, **score})
        return results

    def _masks(
        self, video: bytes, shown: Region, frames: range, count: int, seconds: float
    ) -> Iterator[tuple[int, dict[Any, tuple[np.ndarray, float]]]]:
        """Yields Label Studio's frames, from 1, with the mask ``(H, W)`` bool and the predicted IoU of each object.

        Args:
            shown: Label Studio's keyframes of each object.
            count, seconds: Number of frames of the timeline, and the duration of a frame.
        """
        state = self._videos.init_state(video)
        try:
            all_shown = ShownFrames(count, seconds, state.frames.rate, len(state.frames))
            height, width = state.video_size
            for name, keys in shown.items():
                for key in keys:
                    if key.get("enabled", True):
                        box = corners_of(key, width, height)
                        self._videos.add_new_points_or_box(state, all_shown.video_index(key["frame"]), name, box=box)
            shown_at = defaultdict[int, list[int]](list)
            for frame in frames:
                shown_at[all_shown.video_index(frame)].append(frame)
            first, most = min(shown_at), max(shown_at) - min(shown_at)
            for index, names, logits, scores in self._videos.propagate_in_video(
                state, first, most, return_scores=True, progress=False
            ):
                outputs = zip((logits[:, 0] > 0).cpu().numpy(), scores.iou.tolist(), strict=True)
                masks = dict(zip(names, outputs, strict=True))
                for frame in shown_at.get(index, ()):
                    yield frame, masks
        finally:
            state.frames.close()


def make_app(backend: LabelStudioBackend) -> Flask:
    """Returns the application for Label Studio: ``/health``, ``/setup``, ``/predict``. Errors are JSON."""
    app = Flask(__name__)

    @app.get("/")
    @app.get("/health")
    def health() -> Any:
        return jsonify(status="UP", model_class=VERSION)

    @app.post("/setup")
    def setup() -> Any:
        return jsonify(model_version=VERSION)

    @app.post("/predict")
    def predict() -> Any:
        body = request.get_json()
        tasks = body["tasks"]
        context = (body.get("params") or {}).get("context") or {}
        prompts = context.get("result") or []
        results = [backend.predict(task, body["label_config"], prompts) for task in tasks]
        return jsonify(results=results, model_version=VERSION)

    @app.post("/webhook")
    @app.post("/train")
    def train() -> Any:
        return jsonify({}), 201  # ignored, since annotations do not change the model

    @app.errorhandler(ArithmeticError)
    @app.errorhandler(LookupError)
    @app.errorhandler(TypeError)
    @app.errorhandler(ValueError)
    def wrong(error: Exception) -> Any:
        message = f"the request lacks {error}" if isinstance(error, KeyError) else str(error)
        return jsonify(error=message), 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        return jsonify(error=error.description), error.code

    return app
