"""label-studio-sdk accepts the backend's answers, and reads the library's masks from them: ``make test-clients``."""

import json

import cv2
import numpy as np
import pytest
from hard_names import HARD_NAMES
from label_studio_sdk._extensions.label_studio_tools.postprocessing.video import extract_key_frames
from label_studio_sdk.converter.brush import decode_from_annotation
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from small_video import SIZE, video_frames

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.demo.clip import encode_mp4
from sam2fast.integrations.label_studio import LabelStudioBackend, make_app
from sam2fast.io.overlay import area_of
from sam2fast.io.rle import encode_rle
from sam2fast.results import AnnotatedImage, write_masks

FRAMES = video_frames(6)
IMAGE_LIST = [Image.fromarray(frame) for frame in FRAMES]
PERCENT = 100 / SIZE
IMAGES = """<View><Image name="image" value="$image"/>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="disc"/></KeyPointLabels>
  <{0} name="mask" toName="image"><Label value="disc"/></{0}></View>"""
VIDEOS = """<View><Video name="video" value="$video"/>
  <Labels name="labels" toName="video"><Label value="disc"/></Labels>
  <VideoRectangle name="box" toName="video" smart="true"/>
  <VideoVectorLabels name="outline" toName="video"><Label value="disc"/></VideoVectorLabels></View>"""
BOX = [8, 18, 52, 62]


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")


@pytest.fixture
def client(predictor, tmp_path):
    files = {"image": tmp_path / "image.png", "video": tmp_path / "clip.mp4"}
    IMAGE_LIST[0].save(files["image"])
    files["video"].write_bytes(encode_mp4(IMAGE_LIST))
    return make_app(LabelStudioBackend(predictor, lambda name: files[name].read_bytes())).test_client()


def prediction(client, config, kind, prompts):
    body = {"tasks": [{"data": {kind: kind}}], "label_config": config, "params": {"context": {"result": prompts}}}
    found = client.post("/predict", json=body).json["results"][0]
    assert LabelInterface(config).validate_prediction(found, return_errors=True) == []
    return found["result"]


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_an_image(client, predictor, tag):
    value = {"x": 30 * PERCENT, "y": 40 * PERCENT, "keypointlabels": ["disc"]}
    prompt = {"type": "keypointlabels", "to_name": "image", "value": value}
    (region,) = prediction(client, IMAGES.format(tag), "image", [prompt])
    images = SAM2ImagePredictor(predictor)
    images.set_image(FRAMES[0])
    masks, scores, _ = images.predict([[30, 40]], [1])
    mask = masks[scores.argmax()] > 0
    assert mask.sum() > 500 and region["score"] == pytest.approx(scores.max())
    if tag == "BrushLabels":
        flat = {**region, **region["value"]}  # as the converter makes it
        (layer,) = decode_from_annotation("mask", [flat]).values()
        assert np.array_equal(layer > 0, mask) and set(np.unique(layer)) == {0, 255}
    else:
        drawn = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [corners(region["value"]["points"])], 1) > 0
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9


def corners(points):
    return np.round(np.asarray(points) / PERCENT).astype(np.int32)


def test_a_video(client, predictor):
    key = {"frame": 1, "enabled": True, "rotation": 0, "time": 0.0, "x": 8 * PERCENT, "y": 18 * PERCENT}
    key |= {"width": 44 * PERCENT, "height": 44 * PERCENT}
    value = {"framesCount": 6, "duration": 0.75, "sequence": [key], "labels": ["disc"]}
    prompt = {"type": "videorectangle", "id": "a", "from_name": "box", "to_name": "video", "value": value}
    boxes, outlines = prediction(client, VIDEOS, "video", [prompt])
    state = predictor.init_state(encode_mp4(IMAGE_LIST))
    predictor.add_new_points_or_box(state, 0, "a", box=BOX)
    masks = {t + 1: (m[0, 0] > 0).numpy() for t, _, m in predictor.propagate_in_video(state, progress=False)}
    every = {key["frame"]: key for key in extract_key_frames([boxes])[0]["value"]["sequence"]}
    assert sorted(every) == [1, 2, 3, 4, 5, 6]
    for vector in outlines["value"]["sequence"]:
        mask, key = masks[vector["frame"]], every[vector["frame"]]
        rows, columns = area_of(mask)
        found = np.array([key["x"], key["y"], key["x"] + key["width"], key["y"] + key["height"]]) / PERCENT
        assert np.allclose(found, [columns.start, rows.start, columns.stop, rows.stop])
        ring = corners([[one["x"], one["y"]] for one in vector["vertices"]])
        drawn = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [ring], 1) > 0
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9


def test_exported_tasks_have_names_of_any_script(tmp_path):
    mask = encode_rle(np.ones((SIZE, SIZE), bool))
    item = AnnotatedImage(
        *(FRAMES[0], "image", (SIZE, SIZE), [mask] * len(HARD_NAMES), HARD_NAMES, [0.5] * len(HARD_NAMES), HARD_NAMES)
    )
    write_masks(tmp_path, [item], "label-studio")
    interface = LabelInterface((tmp_path / "label_config.xml").read_text(encoding="utf-8"))
    (prediction,) = json.loads((tmp_path / "image.json").read_text())["predictions"]
    assert interface.validate_prediction(prediction, return_errors=True) == []
    assert interface.get_control("label").labels == HARD_NAMES
