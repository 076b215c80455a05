"""A napari widget that makes a labels layer from points and boxes, for an image, a z-stack or a time-lapse.

Needs the extra ``napari``. In napari's menu: Plugins, "Segment and track (sam2fast)".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from magicgui.widgets import CheckBox, ComboBox, Container, ProgressBar, PushButton, SpinBox
from napari import Viewer
from napari.layers import Image, Labels, Points, Shapes
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error
from numpy.typing import NDArray

from sam2fast._official_names import RELEASES
from sam2fast.integrations.models import best_mask
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.embedded import MINI, NANO

MODELS = (MINI.model_id, *RELEASES, NANO.model_id)
# Attributes of a layer that place it in the world.
PLACEMENT = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
POINTS, BOXES, RESULT = "points (sam2fast)", "boxes (sam2fast)", "masks (sam2fast)"
PIXEL_CENTRE = 0.5  # integer coordinates are pixel centres in napari, pixel corners in SAM 2


class Prompt(NamedTuple):
    """The points and boxes of one object on one frame."""

    points: list[list[float]]  # points (x, y)
    labels: list[int]  # label of each point: 1 on the object, 0 beside it
    boxes: list[list[float]]  # at most one box XYXY


class LayerFrames(Sequence[NDArray[np.uint8]]):
    """The uint8 planes of a 2D or 3D image layer, scaled by the contrast. Raises ValueError for other layers."""

    def __init__(self, layer: Any) -> None:
        self._data, self._is_rgb, self._limits = layer.data, layer.rgb, layer.contrast_limits
        if layer.ndim not in (2, 3) or layer.multiscale:
            reason = "several scales" if layer.multiscale else f"{layer.ndim} dimensions"
            raise ValueError(f"{layer.name!r} has {reason}; expected an image, a z-stack or a time-lapse")
        self._is_single = layer.ndim == 2

    def __len__(self) -> int:
        return 1 if self._is_single else len(self._data)

    def __getitem__(self, index: Any) -> Any:
        frame = np.asarray(self._data if self._is_single else self._data[index])
        if self._is_rgb:
            frame = frame[..., :3]
            if frame.dtype == np.uint8:
                return frame
            white = 1 if frame.dtype.kind == "f" else np.iinfo(frame.dtype).max  # white in napari
            return ((frame / white).clip(0, 1) * 255).round().astype(np.uint8)
        low, high = self._limits
        return (((frame.astype(np.float32) - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8)


def read_prompts(image: Any, layers: Sequence[Any]) -> dict[tuple[int, int], Prompt]:
    """Returns the prompts of points and shapes layers by frame and object, in pixels of an image layer.

    Both layers have the feature ``object``, a number from 1. Points have the feature ``on``: True on the object.

    Raises:
        ValueError: If there are no prompts, or an object has two boxes on a frame.
    """
    prompts: dict[tuple[int, int], Prompt] = {}
    for layer in layers:
        rows = layer.features.to_dict("records") or [{}] * len(layer.data)
        for data, row in zip(layer.data, rows, strict=True):
            places = np.array([image.world_to_data(layer.data_to_world(corner)) for corner in np.atleast_2d(data)])
            frame = round(float(places[:, 0].mean())) if image.ndim == 3 else 0
            key, xy = (frame, int(row.get("object", 1))), places[:, :-3:-1] + PIXEL_CENTRE
            prompt = prompts.setdefault(key, Prompt([], [], []))
            if isinstance(layer, Points):
                prompt.points.append(xy[0].tolist())
                prompt.labels.append(int(row.get("on", True)))
            elif prompt.boxes:
                raise ValueError(f"object {key[1]} has two boxes on plane {frame}; expected one")
            else:
                prompt.boxes.append([*xy.min(0).tolist(), *xy.max(0).tolist()])
    if not prompts:
        raise ValueError(f"there are no prompts; draw points in {POINTS!r} or boxes in {BOXES!r}")
    return dict(sorted(prompts.items()))


def placement_of(layer: Any) -> dict[str, Any]:
    """Returns the arguments that place a new layer on this layer."""
    return {name: getattr(layer, name) for name in PLACEMENT}


def to_labels(ids: Sequence[int], logits: Any) -> NDArray[np.uint16]:
    """Returns labels ``(H, W)`` of logits ``(N, 1, H, W)``: the id with the greatest logit, or 0 if no logit is > 0."""
    best = logits[:, 0].max(0)
    best_ids = np.array(ids, np.uint16)[best.indices.cpu().numpy()]
    return np.where(best.values.cpu().numpy() > 0, best_ids, 0).astype(np.uint16)


class SegmentWidget(Container):  # type: ignore[misc,unused-ignore]
    """Segments the prompted planes of an image layer, or tracks the prompted objects through all planes both ways."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self.viewer, self._worker = napari_viewer, None
        self._predictors: dict[tuple[type, str], Any] = {}
        self.image = ComboBox(label="image", choices=lambda _: [x for x in self.viewer.layers if isinstance(x, Image)])
        self.model = ComboBox(label="model", choices=MODELS)
        self.object = SpinBox(label="object", value=1, min=1, max=np.iinfo(np.uint16).max)
        self.on = CheckBox(text="points lie on the object", value=True)
        self.segment, self.track = PushButton(text="Segment prompted planes"), PushButton(text="Track, both directions")
        self.cancel, self.bar = PushButton(text="Cancel", enabled=False), ProgressBar(value=0, min=0, max=1)
        choices = [self.image, self.model, self.object, self.on]
        super().__init__(widgets=[*choices, self.segment, self.track, self.cancel, self.bar])
        self.object.changed.connect(self._set_defaults)
        self.on.changed.connect(self._set_defaults)
        self.segment.changed.connect(lambda: self.run(tracked=False))
        self.track.changed.connect(lambda: self.run(tracked=True))
        self.cancel.changed.connect(lambda: self._worker and self._worker.quit())
        self.image.changed.connect(self.add_prompt_layers)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            event.connect(lambda: self.image.reset_choices())
        self.add_prompt_layers()

    def add_prompt_layers(self) -> None:
        """Adds missing layers for points and boxes, on the grid of the selected image."""
        image = self.image.value
        if image is None:
            return
        grid = {"ndim": image.ndim, **placement_of(image)}
        text = {"string": "{object}", "color": "cyan", "size": 14, "anchor": "upper_left"}
        objects, on = {"object": np.zeros(0, int)}, {"on": np.zeros(0, bool)}
        if POINTS not in self.viewer.layers:
            colours = {"face_color": "on", "face_color_cycle": ["red", "lime"]}  # sorted: False comes first
            self.viewer.add_points(name=POINTS, features=objects | on, size=5, text=text, **grid, **colours)
        if BOXES not in self.viewer.layers:
            colours = {"face_color": "transparent", "edge_color": "cyan"}
            self.viewer.add_shapes(name=BOXES, features=objects, text=text, **grid, **colours)
        self._set_defaults()

    def _set_defaults(self) -> None:
        """Assigns new points and boxes to the selected object."""
        values = {"object": self.object.value, "on": self.on.value}
        for layer in (layer for layer in self.viewer.layers if layer.name in (POINTS, BOXES)):
            layer.feature_defaults = {name: values[name] for name in layer.features}

    def run(self, tracked: bool) -> Any:
        """Starts a thread that finds the masks and shows each finished plane. Returns napari's worker, or None.

        Errors are shown as napari's notifications. If the prompts are invalid, earlier masks remain.
        """
        image = self.image.value
        try:
            if image is None:
                raise ValueError("there is no image layer")
            frames = LayerFrames(image)
            layers = [layer for layer in self.viewer.layers if isinstance(layer, Points | Shapes) and layer.visible]
            prompts = read_prompts(image, layers)
            for plane, _ in prompts:
                if not 0 <= plane < len(frames):
                    raise ValueError(f"a prompt is on plane {plane}; the image has planes 0 to {len(frames) - 1}")
        except ValueError as error:
            show_error(str(error))
            return None
        shape = (len(frames), *frames[0].shape[:2]) if image.ndim == 3 else frames[0].shape[:2]
        if RESULT in self.viewer.layers:
            self.viewer.layers.remove(RESULT)
        labels = np.zeros(shape, np.uint16)
        result = Labels(labels, name=RESULT, **placement_of(image))
        self.viewer.add_layer(result)
        self.bar.value, self.bar.max = 0, len(frames) if tracked else len({frame for frame, _ in prompts})

        def show(item: tuple[int, NDArray[np.uint16]]) -> None:
            (labels if labels.ndim == 2 else labels[item[0]])[:] = item[1]
            result.refresh()
            self.bar.value += 1

        find = thread_worker(self._find, ignore_errors=True)
        self._worker = worker = find(self.model.value, frames, prompts, tracked)
        worker.yielded.connect(show)
        worker.errored.connect(lambda error: show_error(str(error)))
        worker.finished.connect(lambda: self._set_running(False))
        self._set_running(True)
        worker.start()
        return worker

    def _set_running(self, running: bool) -> None:
        self.segment.enabled = self.track.enabled = not running
        self.cancel.enabled = running

    def _find(
        self, model: str, frames: LayerFrames, prompts: dict[tuple[int, int], Prompt], tracked: bool
    ) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """Yields each frame with its labels. napari can stop this generator between two frames."""
        if len(frames) == 1:
            yield 0, self._segment_image(model, frames[0], prompts)
            return
        predictor = self._predictor(SAM2VideoPredictor, model)
        state, shown = predictor.init_state(frames), {}
        for (frame, obj_id), (points, labels, boxes) in prompts.items():
            box = boxes[0] if boxes else None
            output = predictor.add_new_points_or_box(state, frame, obj_id, points or None, labels or None, box=box)
            shown[frame] = to_labels(*output[1:])
        if not tracked:
            yield from shown.items()
            return
        yield from ((item[0], to_labels(*item[1:])) for item in predictor.propagate_both(state, progress=False))

    def _segment_image(
        self, model: str, image: NDArray[np.uint8], prompts: Mapping[tuple[int, int], Prompt]
    ) -> NDArray[np.uint16]:
        """Returns the labels of a single image, from the masks of ``sam2fast segment``."""
        predictor = self._predictor(SAM2ImagePredictor, model)
        features, best = predictor.encode(image), []
        for points, labels, boxes in prompts.values():
            box = boxes[0] if boxes else None
            best.append(best_mask(predictor, points, labels, box, return_logits=True, features=features)[0][None])
        return to_labels([obj_id for _, obj_id in prompts], torch.from_numpy(np.stack(best)))

    def _predictor(self, cls: type, model: str) -> Any:
        if (cls, model) not in self._predictors:
            self._predictors[cls, model] = cls.from_pretrained(model, device="auto")  # type: ignore[attr-defined]
        return self._predictors[cls, model]
