"""The napari widget in the real napari, without a window: ``make test-clients``."""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import pytest
from click.testing import CliRunner
from napari.components import ViewerModel
from PIL import Image
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from small_video import video_frames

from sam2fast.cli import main
from sam2fast.downloads.catalog import published_models
from sam2fast.integrations.napari import BOXES, MODELS, POINTS, RESULT, LayerFrames, SegmentWidget, to_labels
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

LENGTH, SIZE = 9, 64


def stack(dtype=np.uint8):
    """Two squares that move towards each other ``(T, H, W)``."""
    planes = np.full((LENGTH, SIZE, SIZE), 40, dtype)
    for t in range(LENGTH):
        planes[t, 10:26, 4 + 3 * t : 20 + 3 * t] = 220
        planes[t, 38:54, 44 - 3 * t : 60 - 3 * t] = 150
    return planes


@pytest.fixture
def viewer():
    application = QApplication.instance() or QApplication([])
    yield ViewerModel()  # the viewer without its canvas, which needs OpenGL
    application.processEvents()


@pytest.fixture
def notes(monkeypatch):
    """What napari would show as notifications."""
    shown = []
    monkeypatch.setattr("sam2fast.integrations.napari.show_error", shown.append)
    return shown


def docked(viewer):
    widget = SegmentWidget(viewer)
    widget.model.value = "sam2fast/nano"
    return widget


def wait(widget):
    for _ in range(3000):
        QTest.qWait(20)
        if widget.segment.enabled:
            return
    raise TimeoutError


@pytest.fixture(scope="module")
def predictor():
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano")


def expected(predictor, frames, track=True):
    """What the library gives for the prompts of :func:`draw`."""
    state = predictor.init_state(list(frames))
    first = predictor.add_new_points_or_box(state, 4, 1, [[24.5, 18.5], [40.5, 34.5]], [1, 0])
    second = predictor.add_new_points_or_box(state, 4, 2, box=[32.5, 38.5, 47.5, 53.5])
    assert first[1] == [1]
    if not track:
        return {4: to_labels(*second[1:])}
    return {frame: to_labels(ids, masks) for frame, ids, masks in predictor.propagate_both(state, progress=False)}


def draw(viewer, widget, frame=(4,), scale=1.0):
    """A point on the first square and one beside it, and a box around the second, which is object 2."""
    points, boxes = viewer.layers[POINTS], viewer.layers[BOXES]
    points.add([*frame, 18, 24])
    widget.on.value = False
    points.add([*frame, 34, 40])
    widget.object.value = 2
    boxes.add_rectangles(np.array([[*frame, 38, 32], [*frame, 38, 47], [*frame, 53, 47], [*frame, 53, 32]]))


def test_a_stack_is_tracked_in_both_directions(viewer, notes, predictor):
    viewer.add_image(stack(), contrast_limits=(0, 255), scale=(3, 1, 1), translate=(5, 6, 7))
    widget = docked(viewer)
    draw(viewer, widget)
    assert viewer.layers[POINTS].features["object"].tolist() == [1, 1]
    assert viewer.layers[POINTS].features["on"].astype(bool).tolist() == [True, False]
    assert viewer.layers[POINTS].face_color[:, :3].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert viewer.layers[BOXES].features["object"].tolist() == [2]
    widget.run(tracked=True)
    assert widget.cancel.enabled and not widget.track.enabled
    wait(widget)
    found = viewer.layers[RESULT]
    frames = np.repeat(stack()[..., None], 3, -1)
    for frame, labels in expected(predictor, frames).items():
        assert np.array_equal(found.data[frame], labels)
    assert {*np.unique(found.data)} == {0, 1, 2} and found.data[0].any() and found.data[-1].any()
    assert found.scale.tolist() == [3, 1, 1] and found.translate.tolist() == [5, 6, 7]
    assert notes == [] and widget.bar.value == LENGTH


def test_prompted_planes_alone(viewer, notes, predictor):
    viewer.add_image(stack(np.uint16), contrast_limits=(0, 255))
    widget = docked(viewer)
    draw(viewer, widget)
    widget.segment.changed.emit(True)
    wait(widget)
    found = viewer.layers[RESULT].data
    frames = np.repeat(stack()[..., None], 3, -1)
    assert np.array_equal(found[4], expected(predictor, frames, track=False)[4])
    assert not found[:4].any() and not found[5:].any()


def test_an_image_in_colour(viewer, notes):
    image = np.repeat(stack()[4][..., None], 3, -1)
    viewer.add_image(image, rgb=True)
    widget = docked(viewer)
    draw(viewer, widget, frame=())
    widget.run(tracked=True)
    wait(widget)
    assert viewer.layers[RESULT].data.shape == (SIZE, SIZE) and notes == []
    assert (viewer.layers[RESULT].data == 1)[10:26, 16:32].mean() > 0.9


@pytest.mark.parametrize(("kind", "white"), [(np.uint16, 65535), (np.float32, 1)])
def test_colours_of_other_types_are_those_that_napari_shows(viewer, kind, white):
    shown = np.repeat(stack()[4][..., None], 3, -1)
    image = (shown * (white / 255)).astype(kind)
    assert np.array_equal(LayerFrames(viewer.add_image(image, rgb=True))[0], shown)


def test_layers_on_another_grid(viewer, notes, predictor):
    """Points of a layer in micrometres are where they lie in the world."""
    viewer.add_image(stack(), contrast_limits=(0, 255), scale=(2, 0.5, 0.5))
    widget = docked(viewer)
    viewer.add_points([[8, 9, 12]], name="mine")
    widget.run(tracked=False)
    wait(widget)
    state = predictor.init_state(list(np.repeat(stack()[..., None], 3, -1)))
    masks = predictor.add_new_points_or_box(state, 4, 1, [[24.5, 18.5]], [1])
    assert np.array_equal(viewer.layers[RESULT].data[4], to_labels(*masks[1:]))


AFFINE = np.eye(4)
AFFINE[:3] = [[1, 0, 0, 4], [0, 0.9, 0.3, 5], [0, -0.2, 1.1, 6]]


@pytest.mark.parametrize(
    "placement",
    [
        {"affine": AFFINE},
        {"rotate": (0, 0, 30)},
        {"shear": (0, 0, 0.4)},
        {"rotate": (0, 0, -75), "shear": (0, 0, 0.2), "scale": (3, 0.5, 0.7), "translate": (1, 2, 3), "affine": AFFINE},
        {"scale": (2, 0.5, 0.5), "units": ("um", "um", "um"), "axis_labels": ("z", "y", "x")},
    ],
)
def test_labels_lie_on_their_image(viewer, notes, predictor, placement):
    """Also the layers for prompts: what is drawn in them is prompted in the image's pixels."""
    image = viewer.add_image(stack(), contrast_limits=(0, 255), **placement)
    widget = docked(viewer)
    draw(viewer, widget)
    widget.run(tracked=False)
    wait(widget)
    frames = np.repeat(stack()[..., None], 3, -1)
    assert np.array_equal(viewer.layers[RESULT].data[4], expected(predictor, frames, track=False)[4]) and notes == []
    for layer in (viewer.layers[name] for name in (POINTS, BOXES, RESULT)):
        for place in ([0, 0, 0], [4, 18, 24], [8, 63, 0]):
            assert np.allclose(layer.data_to_world(place), image.data_to_world(place)), layer.name
        assert layer.units == image.units and layer.axis_labels == image.axis_labels


def test_an_image_in_colour_lies_in_its_place(viewer, notes):
    image = viewer.add_image(np.repeat(stack()[4][..., None], 3, -1), rgb=True, rotate=40, shear=[0.3], scale=(2, 3))
    widget = docked(viewer)
    draw(viewer, widget, frame=())
    widget.run(tracked=False)
    wait(widget)
    assert np.allclose(viewer.layers[RESULT].data_to_world((9, 30)), image.data_to_world((9, 30))) and notes == []


def run(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output


def test_a_stack_has_the_masks_of_the_command(viewer, notes, tmp_path):
    for t, plane in enumerate(stack()):
        (tmp_path / "planes").mkdir(exist_ok=True)
        Image.fromarray(plane).save(tmp_path / "planes" / f"{t:03}.png")
    prompts = ["--point", "4,1,24.5,18.5", "--point", "4,1,40.5,34.5,0", "--box", "4,2,32.5,38.5,47.5,53.5"]
    options = ["--model", "nano", "--format", "png", "--out", tmp_path / "out"]
    run("track", tmp_path / "planes", *prompts, *options)
    viewer.add_image(stack(), contrast_limits=(0, 255))
    widget = docked(viewer)
    draw(viewer, widget)
    widget.run(tracked=True)
    wait(widget)
    for t in range(4, LENGTH):
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{t:03}.png"))
        assert np.array_equal(viewer.layers[RESULT].data[t], labels) and {*labels.flat} == {0, 1, 2}


@pytest.mark.parametrize("model", ["nano", "mini"])
def test_an_image_has_the_mask_of_the_command(viewer, notes, tmp_path, model):
    """Mini has another input size for images than for videos."""
    (image,) = video_frames(1)
    Image.fromarray(image).save(tmp_path / "image.png")
    run("segment", tmp_path / "image.png", "--point", "30.5,40.5", "--model", model, "--out", tmp_path)
    viewer.add_image(image, rgb=True)
    widget = docked(viewer)
    widget.model.value = f"sam2fast/{model}"
    viewer.layers[POINTS].add([40, 30])
    widget.run(tracked=False)
    wait(widget)
    mask = np.asarray(Image.open(tmp_path / "image_mask.png")) > 0
    assert np.array_equal(viewer.layers[RESULT].data == 1, mask) and mask.any()


def test_every_model_of_the_table_is_listed(viewer, notes):
    assert {one.hub_id for one in published_models().values()} < {*MODELS} and "wanglab/MedSAM2" in MODELS
    assert docked(viewer).model.choices == MODELS


def test_cancel_keeps_what_was_found(viewer, notes):
    viewer.add_image(stack(), contrast_limits=(0, 255))
    widget = docked(viewer)
    draw(viewer, widget)
    worker = widget.run(tracked=True)
    worker.yielded.connect(lambda found: found[0] == 5 and widget.cancel.changed.emit(True))
    wait(widget)
    data = viewer.layers[RESULT].data
    assert data[4].any() and data[5].any() and not data[:4].any() and not data[-1].any()
    widget.run(tracked=False)  # and goes on
    wait(widget)
    assert viewer.layers[RESULT].data[4].any() and notes == []


def test_errors_are_notifications(viewer, notes):
    widget = docked(viewer)
    assert widget.run(tracked=True) is None
    layer = viewer.add_image(np.zeros((2, 3, SIZE, SIZE), np.uint8))
    assert widget.run(tracked=True) is None
    viewer.layers.clear()
    viewer.add_image(stack(), contrast_limits=(0, 255))
    widget = docked(viewer)
    assert widget.run(tracked=True) is None
    viewer.layers[POINTS].add([50, 8, 8])
    viewer.add_labels(np.ones((9, SIZE, SIZE), np.uint16), name=RESULT)
    assert widget.run(tracked=True) is None and viewer.layers[RESULT].data.all()  # earlier masks stay
    texts = [
        "there is no image layer",
        "has 4 dimensions",
        "there are no prompts",
        "on plane 50; the image has planes 0",
    ]
    assert layer.ndim == 4 and len(notes) == len(texts)
    for note, text in zip(notes, texts, strict=True):
        assert text in note
    for place in ([4, 8, 8], [4, 20, 20]):
        corner = np.array(place)
        viewer.layers[BOXES].add_rectangles(
            np.array([corner, corner + [0, 0, 9], corner + [0, 9, 9], corner + [0, 9, 0]])
        )
    assert widget.run(tracked=True) is None and "two boxes on plane 4" in notes[-1]
