"""The recipe for supervision in docs/text_prompts.md gives the masks, scores and classes of the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from document_blocks import blocks_of
from PIL import Image
from small_video import video_frames

from sam2fast import SAM2VideoPredictor
from sam2fast.cli import main
from sam2fast.io.rle import decode_rle

# supervision says so when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV .* is not installed")
BOXES = [[88, 78, 117, 107], [8, 18, 52, 62]]
NAMES = ["圆盘 \U0001f7e0", "quadrato 'è'"]


@pytest.fixture(scope="module")
def recipe():
    """The names that the page's Python block defines, with nano."""
    (block,) = (block for block in blocks_of("python") if block.file == "docs/text_prompts.md")
    names: dict = {}
    exec(compile(block.text.replace("sam2fast/mini", "sam2fast/nano"), block.where, "exec"), names)  # noqa: S102
    assert isinstance(names["predictor"], SAM2VideoPredictor)
    return names


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "frames"
    folder.mkdir()
    for t, frame in enumerate(video_frames(3)):
        Image.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


def detections(**data):
    import supervision

    classes, scores = np.array([1, 0]), np.array([0.9, 0.8])
    return supervision.Detections(xyxy=np.array(BOXES, float), class_id=classes, confidence=scores, data=data)


def test_classes_and_scores_are_those_of_the_command(recipe, frames, tmp_path):
    found = [*recipe["track"](lambda image: detections(class_name=np.array([NAMES[1], NAMES[0]])), frames)]
    coco = {
        "images": [{"id": 1, "file_name": "00000.png", "width": 128, "height": 128}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": kind, "bbox": [x, y, x1 - x, y1 - y], "score": score}
            for i, ((x, y, x1, y1), kind, score) in enumerate(zip(BOXES, [1, 0], [0.9, 0.8], strict=True))
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    options = ["--boxes-from", tmp_path / "boxes.json", "--every", 10, "--stream", "--model", "nano", "--device", "cpu"]
    result = CliRunner().invoke(main, [*map(str, ["track", frames, *options, "--out", tmp_path / "out"])])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()]
    assert len(found) == len(lines) == 3
    for one, line in zip(found, lines, strict=True):
        assert one.class_id.tolist() == [1, 0] and one.data["class_name"].tolist() == NAMES[::-1]
        named = [f"{name}_{i}" for name, i in zip(one.data["class_name"], one.tracker_id, strict=True)]
        assert named == [entry["id"] for entry in line["objects"]]
        assert np.allclose(one.confidence, [entry["score"] for entry in line["objects"]], atol=1e-6)
        for mask, entry in zip(np.asarray(one.mask), line["objects"], strict=True):
            assert np.array_equal(mask, decode_rle(entry["rle"])) and mask.any()


def test_detections_without_names_or_classes(recipe, frames):
    for one in recipe["track"](lambda image: detections(), frames):
        assert one.class_id.tolist() == [1, 0] and "class_name" not in one.data

    def without(image):
        found = detections()
        found.class_id = None
        return found

    assert [one.class_id.tolist() for one in recipe["track"](without, frames)] == [[0, 0]] * 3
