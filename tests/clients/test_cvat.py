"""CVAT's own code drives the functions, and gets the masks of the library: ``make test-clients``."""

import json
from types import SimpleNamespace

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import pytest
from click.testing import CliRunner
from cvat_cli._internal import agent_driver, agent_driver_interaction, agent_driver_tracking
from cvat_cli._internal.agent import get_function_driver_class
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk import masks
from cvat_sdk.auto_annotation.driver import _AnnotationMapper, _DetectionFunctionContextImpl
from PIL import ExifTags, Image
from small_video import SIZE, video_frames

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.cli import main
from sam2fast.integrations.cvat import CvatDetector, create, everything, in_boxes, points_of
from sam2fast.io.rle import decode_rle

MODEL = "sam2fast/nano"
FRAMES = video_frames(5)
SQUARE = np.zeros((SIZE, SIZE), bool)
SQUARE[80:105, 90:115] = True
POLYGON = [90.0, 80.0, 115.0, 80.0, 115.0, 105.0, 90.0, 105.0]
CUT = 3  # pixels


class Agent:
    """CVAT's agent for a function and a task whose images are ``frames``, without a server."""

    def __init__(self, function, monkeypatch, frames=FRAMES):
        self.frames = list(frames)
        monkeypatch.setattr(agent_driver, "_current_function", function, raising=False)
        kind = get_function_driver_class(function.spec)
        ids = iter(range(100))
        kind.init_worker(lambda: f"state-{next(ids)}")
        executor = SimpleNamespace(submit=lambda call, *args: call(*args), result=lambda value: value)
        self.driver = kind(None, executor, function.spec)
        monkeypatch.setattr(self.driver, "_get_sample_from_ar_params", self._sample)
        self.fields = kind.get_remote_function_fields(function.spec)

    def _sample(self, params):
        image = Image.fromarray(self.frames[params["frame"]])
        return SimpleNamespace(media=SimpleNamespace(load_image=lambda: image), frame_name="x"), []

    def ask(self, kind, frame, **params):
        request = {"type": kind, "task": 1, "frame": frame, **params}
        return self.driver.calculate_result_for_ar(request, lambda **progress: None)


def decoded(points):
    return masks.decode_mask(points, image_width=SIZE, image_height=SIZE)


def load(**parameters):
    """A function as cvat-cli loads it."""
    return FunctionLoader("sam2fast.integrations.cvat", None, {"model": MODEL, "device": "cpu", **parameters}).load()


@pytest.fixture(scope="module")
def tracker():
    return load(kind="tracker")


def tracked_masks(prompt, frames) -> list[np.ndarray]:
    """Of the library's own stream."""
    predictor = SAM2VideoPredictor.from_pretrained(MODEL, device="cpu")
    with predictor.open_stream() as stream:
        stream.step(frames[0])
        prompt(stream)
        return [(stream.step(frame).masks[0, 0] > 0).numpy() for frame in frames[1:]]


def test_masks_polygons_and_rectangles_are_tracked(tracker, monkeypatch):
    agent = Agent(tracker, monkeypatch)
    assert agent.fields == {"supported_shape_types": ["mask", "polygon", "rectangle"]}
    agent.driver.validate_function_compatibility(agent.fields)
    encoded = []
    steps = tracker._predictor._tracker.steps
    encode = steps.encode
    monkeypatch.setattr(steps, "encode", lambda *args: (encoded.append(args[1]), encode(*args))[1])
    shapes = [
        {"type": "mask", "points": masks.encode_mask(SQUARE)},
        {"type": "polygon", "points": POLYGON},
        {"type": "rectangle", "points": [90.0, 80.0, 115.0, 105.0]},
    ]
    states = agent.ask("init_tracking", 0, shapes=shapes)["states"]
    of_mask = tracked_masks(lambda stream: stream.add_new_mask(1, SQUARE), FRAMES)
    of_box = tracked_masks(lambda stream: stream.add_new_points_or_box(1, box=[90, 80, 115, 105]), FRAMES)
    for t in range(1, len(FRAMES)):
        mask, polygon, rectangle = agent.ask("track", t, states=states)["shapes"]
        assert np.array_equal(decoded(mask["points"]), of_mask[t - 1]) and of_mask[t - 1].sum() > 400
        assert polygon["points"] == points_of(of_mask[t - 1], "polygon")
        assert rectangle["points"] == points_of(of_box[t - 1], "rectangle")
    assert len(encoded) == len(FRAMES)  # three shapes, and each frame once
    late = agent.ask("init_tracking", len(FRAMES) - 1, shapes=[shapes[0]])["states"]
    assert len(late) == 1 and len(encoded) == len(FRAMES)


def test_an_object_that_is_gone_is_no_shape(tracker, monkeypatch):
    agent = Agent(tracker, monkeypatch)
    (state,) = agent.ask("init_tracking", 0, shapes=[{"type": "mask", "points": masks.encode_mask(SQUARE)}])["states"]
    stream, _ = agent_driver_tracking._tracking_states.retrieve(state, 1, (SIZE, SIZE))
    result = stream.step(FRAMES[1])
    monkeypatch.setattr(stream, "step", lambda frame: result._replace(masks=result.masks * 0 - 1024))
    assert agent.ask("track", 2, states=[state])["shapes"] == [None]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"type": "mask", "points": [3, 2, 0, 0, 1, 1]}, "does not match"),
        ({"type": "mask", "points": masks.encode_mask(np.zeros((SIZE, SIZE), bool))}, "no pixel"),
        ({"type": "polygon", "points": [1.0, 2.0]}, "three corners"),
        ({"type": "polygon", "points": [1e9, 2.0, 3.0, 4.0, 5.0, 6.0]}, "far outside"),
        ({"type": "rectangle", "points": [1.0, 2.0]}, "box"),
    ],
)
def test_wrong_shapes(tracker, monkeypatch, shape, message):
    with pytest.raises(cvataa.BadFunctionError, match=message):
        Agent(tracker, monkeypatch).ask("init_tracking", 0, shapes=[shape])


def test_frames_of_another_size_and_unknown_states_lose_nothing(tracker, monkeypatch):
    agent = Agent(tracker, monkeypatch, [*FRAMES[:2], FRAMES[2][:-CUT], *FRAMES[2:]])
    states = agent.ask("init_tracking", 0, shapes=[{"type": "mask", "points": masks.encode_mask(SQUARE)}])["states"]
    expected = tracked_masks(lambda stream: stream.add_new_mask(1, SQUARE), FRAMES)
    agent.ask("track", 1, states=states)
    with pytest.raises(agent_driver.BadArError, match="Image sizes"):
        agent.ask("track", 2, states=states)
    stream, _ = agent_driver_tracking._tracking_states.retrieve(states[0], 1, (SIZE, SIZE))
    context = agent_driver_tracking._TrackingFunctionShapeContextImpl(original_shape_type="mask")
    with pytest.raises(cvataa.BadFunctionError, match="resize the frame"):
        tracker.track(context, tracker.preprocess_image(context, Image.fromarray(FRAMES[2][:-CUT])), stream)
    with pytest.raises(agent_driver.BadArError, match="not found"):
        agent.ask("track", 3, states=["expired"])
    for t in (2, 3):
        (shape,) = agent.ask("track", t + 1, states=states)["shapes"]
        assert np.array_equal(decoded(shape["points"]), expected[t - 1])
    stream.close()
    with pytest.raises(cvataa.BadFunctionError, match="was closed"):
        agent.ask("track", 5, states=states)


def test_an_interaction_is_the_predictors_mask(monkeypatch):
    agent = Agent(load(kind="interactor"), monkeypatch)
    assert agent.fields == {"min_pos_points": 0, "min_neg_points": 0, "startswith_box_optional": True}
    predictor = SAM2ImagePredictor.from_pretrained(MODEL, device="cpu")
    predictor.set_image(FRAMES[0])
    prompts = [
        ({"pos_points": [[100, 92]], "neg_points": [], "obj_bbox": []}, ([[100, 92]], [1], None, None, True)),
        (
            {"pos_points": [[100, 92]], "neg_points": [[30, 40]], "obj_bbox": [[88, 78], [117, 107]]},
            ([[100, 92], [30, 40]], [1, 0], [88, 78, 117, 107], None, False),
        ),
        (
            {"pos_points": [], "neg_points": [], "obj_bbox": [[88, 78], [117, 107]]},
            (None, None, [88, 78, 117, 107], None, False),
        ),
    ]
    for given, arguments in prompts:
        (shape,) = agent.ask("interact", 0, **given)["shapes"]
        found, scores, _ = predictor.predict(*arguments)
        assert np.array_equal(decoded(shape["points"]), found[scores.argmax()]) and shape["type"] == "mask"
        assert float(shape["attributes"][0]["value"]) == pytest.approx(scores.max(), abs=1e-6)
    assert len(agent_driver_interaction._pp_image_cache._contents) == 1
    with pytest.raises(cvataa.BadFunctionError, match="give a point or a box"):
        agent.ask("interact", 0, pos_points=[], neg_points=[], obj_bbox=[])


def remapped(function, annotations, shape, conv_mask_to_poly=False):
    """What CVAT accepts of a detection, by its driver."""
    label = SimpleNamespace(name="thing", id=77, type="any", attributes=[], sublabels=[])
    mapper = _AnnotationMapper(
        None, function.spec.labels, [label], allow_unmatched_labels=False, conv_mask_to_poly=conv_mask_to_poly
    )
    tags, shapes = mapper.validate_and_remap(annotations, 12)
    assert not tags and all(one.frame == 12 and one.label_id == 77 and one.type.value == shape for one in shapes)
    return shapes


def test_everything_is_detected():
    """By the functions of ``create``, but with more masks than nano is sure of."""
    assert create("detector", MODEL, "cpu", label="thing").spec.labels[0].name == "thing"
    model = SAM2ImagePredictor.from_pretrained(MODEL, device="cpu").model
    generator = SAM2AutomaticMaskGenerator(model, 8, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    records = generator.generate(FRAMES[0])
    assert len(records) > 4
    function, image = CvatDetector(everything(generator), ["thing"]), Image.fromarray(FRAMES[0])
    found = remapped(function, function.detect(_DetectionFunctionContextImpl(frame_name="x"), image), "mask")
    assert len(found) == len(records)
    for one, record in zip(found, records, strict=True):
        assert np.array_equal(decoded(one.points), record["segmentation"])
        assert one.score == pytest.approx(record["predicted_iou"], abs=1e-6)
    least = records[2]["predicted_iou"]
    context = _DetectionFunctionContextImpl(frame_name="x", conf_threshold=least, conv_mask_to_poly=True)
    found = remapped(function, function.detect(context, image), "polygon", conv_mask_to_poly=True)
    expected = [points_of(r["segmentation"], "polygon") for r in records if r["predicted_iou"] >= least]
    assert [one.points for one in found] == expected and 3 <= len(expected) < len(records)


@pytest.mark.parametrize("shape", ["mask", "polygon", "rectangle"])
def test_boxes_of_a_detector(shape):
    predictor = SAM2ImagePredictor.from_pretrained(MODEL, device="cpu")
    boxes = [[88, 78, 117, 107], [8, 18, 52, 62]]
    function = CvatDetector(in_boxes(predictor, lambda image: (boxes, [0, 0], [0.9, 0.4])), ["thing"], shape)
    image = Image.fromarray(FRAMES[0])
    context = _DetectionFunctionContextImpl(frame_name="x", conf_threshold=0.5)
    (found,) = remapped(function, function.detect(context, image), shape)
    predictor.set_image(image)
    mask = predictor.predict(box=boxes[0], multimask_output=False)[0][0] > 0
    assert found.points == points_of(mask, shape) and found.score == 0.9
    empty = CvatDetector(in_boxes(predictor, lambda image: ([], [], [])), ["thing"])
    assert empty.detect(context, image) == []
    wrong = CvatDetector(in_boxes(predictor, lambda image: ([[1, 2]], [0], [1])), ["thing"])
    with pytest.raises(cvataa.BadFunctionError, match="box"):
        wrong.detect(context, image)


def run(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_photographs_are_upright(tmp_path, monkeypatch):
    """As CVAT shows them, and as the command reads their files."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.fromarray(np.rot90(FRAMES[0])[:, :-28].copy())
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    run("segment", tmp_path / "photo.jpg", "--box", "8,18,52,62", "--model", "nano", "--out", tmp_path)
    mask = decode_rle(json.loads((tmp_path / "photo.json").read_text())["rle"])
    assert mask.shape == (SIZE - 28, SIZE)
    image, context = Image.open(tmp_path / "photo.jpg"), SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    prompts = SimpleNamespace(pos_points=[], neg_points=[], bounding_box=[(8, 18), (52, 62)])
    interactor = load(kind="interactor")
    (shape,) = interactor.detect(context, interactor.preprocess_image(context, image), prompts)
    predictor = SAM2ImagePredictor.from_pretrained(MODEL, device="cpu")
    detector = CvatDetector(in_boxes(predictor, lambda image: ([[8, 18, 52, 62]], [0], [0.9])), ["thing"])
    (detected,) = detector.detect(context, image)
    assert shape.points == detected.points == masks.encode_mask(mask)
    frame = load(kind="tracker").preprocess_image(context, image)
    assert (frame.height, frame.width) == mask.shape


def test_everything_is_that_of_the_command(photo, tmp_path):
    """Masks, scores, and the name of the class."""
    function = load(kind="detector", label="größe 猫")
    found = function.detect(_DetectionFunctionContextImpl(frame_name="x"), Image.open(photo))
    run("masks", photo, "--model", "nano", "--out", tmp_path)
    expected = json.loads((tmp_path / "masks.json").read_text())["annotations"]
    assert [label.name for label in function.spec.labels] == ["größe 猫"] and len(found) == len(expected) > 2
    by_score = sorted(expected, key=lambda entry: -entry["predicted_iou"])
    for one, entry in zip(found, by_score, strict=True):
        assert np.array_equal(decoded(one.points), decode_rle(entry["segmentation"]))
        assert one.score == pytest.approx(entry["predicted_iou"], abs=1e-6) and one.label_id == 0


def test_scores_beyond_one_are_one():
    """CVAT refuses other scores; predicted IoUs may be a little greater."""
    function = CvatDetector(lambda image: [(SQUARE, 0, 1.02), (SQUARE, 0, -0.1)], ["thing"])
    found = function.detect(_DetectionFunctionContextImpl(frame_name="x"), Image.fromarray(FRAMES[0]))
    assert [one.score for one in found] == [1]  # without a threshold, scores below 0 are left out


@pytest.mark.parametrize("model", ["sam2fast/nano", "sam2fast/mini"])
def test_an_interaction_is_that_of_the_command(photo, tmp_path, monkeypatch, model):
    agent = Agent(load(kind="interactor", model=model), monkeypatch)
    given = {"pos_points": [[100, 92]], "neg_points": [[30, 40]], "obj_bbox": [[88, 78], [117, 107]]}
    (shape,) = agent.ask("interact", 0, **given)["shapes"]
    prompts = ["--point", "100,92", "--point", "30,40,0", "--box", "88,78,117,107"]
    run("segment", photo, *prompts, "--model", model, "--out", tmp_path)
    expected = json.loads((tmp_path / "photo.json").read_text())
    assert np.array_equal(decoded(shape["points"]), decode_rle(expected["rle"]))
    assert float(shape["attributes"][0]["value"]) == pytest.approx(expected["score"], abs=1e-6)


def test_a_track_is_that_of_the_command(tmp_path, monkeypatch):
    """Of a box, by frame numbers; with more frames than the memory has pointers, whose number CVAT does not say."""
    (tmp_path / "frames").mkdir()
    frames = video_frames(20)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t:05}.png")
    options = ["--stream", "--model", "nano", "--out", tmp_path / "out"]
    run("track", tmp_path / "frames", "--box", "2,square,86,80,111,105", *options)
    lines = {
        line["frame"]: line for line in map(json.loads, (tmp_path / "out" / "masks.jsonl").read_text().splitlines())
    }
    agent = Agent(load(kind="tracker"), monkeypatch, frames)
    shapes = [{"type": "rectangle", "points": [86.0, 80.0, 111.0, 105.0]}]
    states = agent.ask("init_tracking", 2, shapes=shapes)["states"]
    for t in range(3, len(frames)):
        (shape,) = agent.ask("track", t, states=states)["shapes"]
        x, y, width, height = lines[t]["objects"][0]["box"]
        assert shape["points"] == [x, y, x + width, y + height]


def test_unknown_kinds_and_shapes():
    with pytest.raises(ValueError, match="expected detector, interactor or tracker"):
        create("trackr")
    with pytest.raises(ValueError, match="expected one of mask, polygon, rectangle"):
        CvatDetector(lambda image: [], ["thing"], "ellipse")
