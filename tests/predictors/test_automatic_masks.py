"""Automatic masks against the official generator, live, on identical painted logits: every record is the same."""

import copy
import pickle
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from painted_model import SIDE, PaintedModel, generator
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as OfficialGenerator

from sam2fast import amg, automatic_mask_generator
from sam2fast.amg import candidates
from sam2fast.amg import parameters as amg_parameters
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator

GRID = {"points_per_side": 6}
# Looser than the defaults, so that painted masks pass.
LOOSE = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.6}
ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
CASES = {
    "defaults": {},
    "loose": LOOSE,
    "all masks": ALL,
    "all masks, hard NMS": ALL | {"box_nms_thresh": 0.2},
    "one mask a point": LOOSE | {"multimask_output": False},
    "mask threshold": LOOSE | {"mask_threshold": 0.7, "stability_score_offset": 0.3},
    "negative mask threshold": ALL | {"mask_threshold": -3.0},
    "no stability offset": LOOSE | {"stability_score_offset": 0.0, "stability_score_thresh": 1.0},
    "small regions": LOOSE | {"min_mask_region_area": 6},
    "small regions, mask threshold": ALL | {"min_mask_region_area": 4, "mask_threshold": 1.0},
    "m2m": LOOSE | {"use_m2m": True},
    "m2m, all masks": ALL | {"use_m2m": True, "points_per_batch": 7},
    "m2m, one mask, small regions": LOOSE | {"use_m2m": True, "multimask_output": False, "min_mask_region_area": 6},
    "one point at a time": LOOSE | {"points_per_batch": 1},
    "uneven batches": LOOSE | {"points_per_batch": 5},
    "crops": LOOSE | {"crop_n_layers": 1},
    "crops, all masks": ALL | {"crop_n_layers": 1, "crop_nms_thresh": 1.0},
    "crops, other options": LOOSE
    | {"crop_n_layers": 2, "crop_nms_thresh": 0.4, "crop_overlap_ratio": 0.5, "crop_n_points_downscale_factor": 2},
    "crops, no overlap, m2m": LOOSE | {"crop_n_layers": 1, "crop_overlap_ratio": 0.0, "use_m2m": True},
    "point grids": LOOSE
    | {
        "points_per_side": None,
        "crop_n_layers": 1,
        "point_grids": [np.random.default_rng(n).random((n, 2)) for n in (13, 4)],
    },
    "unknown options": {"colour": "red"},
    "uncompressed run lengths": LOOSE | {"output_mode": "uncompressed_rle"},
    "compressed run lengths, crops": LOOSE | {"output_mode": "coco_rle", "crop_n_layers": 1},
}
# Compared on an image of odd sides, too: what depends on its size.
ODD = ("loose", "small regions", "crops, other options", "crops, no overlap, m2m", "point grids")
IMAGES = {"landscape": (150, 200), "odd": (233, 97)}


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch):
    """Uses the caller's batch size, regardless of the device."""
    monkeypatch.setattr(amg_parameters, "CPU_PROMPTS", 1000)


def image(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def pair(options: dict[str, Any], **paint: Any) -> tuple[Any, Any]:
    """Both generators, the official one first."""
    official, ours = (
        generator(kind, PaintedModel(**paint), **(GRID | options))
        for kind in (OfficialGenerator, SAM2AutomaticMaskGenerator)
    )
    return official, ours


def assert_same_records(expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> None:
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        assert list(e) == list(a)
        for name, value in e.items():
            assert type(value) is type(a[name]), name
            if isinstance(value, np.ndarray):
                assert value.dtype == a[name].dtype
                np.testing.assert_array_equal(value, a[name])
            else:
                np.testing.assert_equal(a[name], value, name)  # NaN equals NaN


@pytest.mark.parametrize(
    ("case", "image_of"), [*((case, "landscape") for case in CASES), *((case, "odd") for case in ODD)]
)
def test_records(case, image_of):
    options, size = CASES[case], IMAGES[image_of]
    official, ours = pair(options)
    expected = official.generate(image(*size))
    assert_same_records(expected, ours.generate(image(*size)))
    assert expected or options in ({}, {"colour": "red"}), "the case tests nothing"


@pytest.mark.parametrize("held", [0, 100_000, 1_000_000])
def test_bounded_memory_changes_nothing(held, monkeypatch):
    """With any limit for logits before NMS; the others are encoded earlier."""
    monkeypatch.setattr(candidates, "MAX_LOGIT_BYTES", held)
    monkeypatch.setattr(candidates, "ENCODE_BATCH_SIZE", 3)
    official, ours = pair(LOOSE | {"points_per_batch": 4})
    assert_same_records(official.generate(image(150, 200)), ours.generate(image(150, 200)))


@pytest.mark.parametrize(
    ("owner", "function", "options"),
    [
        (candidates, "encode_upsampled", LOOSE),
        (automatic_mask_generator, "mask_statistics", {"pred_iou_thresh": 0.9, "stability_score_thresh": 0.0}),
    ],
    ids=["encoding: survivors of NMS", "statistics: masks that pass the IoU filter"],
)
def test_only_remaining_masks_are_processed(owner, function, options, monkeypatch):
    seen = []
    original = getattr(owner, function)
    monkeypatch.setattr(owner, function, lambda logits, *args: seen.append(len(logits)) or original(logits, *args))
    records = pair(options)[1].generate(image(150, 200))
    assert sum(seen) == len(records) if owner is candidates else 0 < sum(seen) < 36


@pytest.mark.parametrize(("crops", "m2m"), [(0, False), (1, True), (2, False)])
def test_no_mask_passes(crops, m2m):
    """With crops the official package fails here."""
    assert pair({"pred_iou_thresh": 2.0, "crop_n_layers": crops, "use_m2m": m2m})[1].generate(image(60, 80)) == []


def test_no_points():
    grids = [np.zeros((0, 2)), np.array([[0.5, 0.5]])]
    _, ours = pair(ALL | {"points_per_side": None, "point_grids": grids, "crop_n_layers": 1})
    assert ours.generate(image(300, 400))
    assert pair(ALL | {"points_per_side": None, "point_grids": grids[:1]})[1].generate(image(30, 40)) == []


def test_batches_of_images():
    _, ours = pair(LOOSE)
    images = [image(150, 200), image(97, 33), image(150, 200)]
    batch = ours.generate_batch(images)
    assert len(batch) == 3
    for records, one in zip(batch, images, strict=True):
        assert_same_records(ours.generate(one), records)
    assert ours.generate_batch([]) == []
    with pytest.raises(TypeError, match="list of images"):
        ours.generate_batch(images[0])


def test_progress(capsys):
    for shown in (False, True):
        pair({"progress": shown})[1].generate(image(60, 80))
        assert ("36/36" in capsys.readouterr().err) is shown
    seen: list[tuple[int, int]] = []
    _, ours = pair({"crop_n_layers": 1, "points_per_batch": 10, "progress": lambda *x: seen.append(x)})
    ours.generate(image(150, 200))
    assert seen[-1] == (180, 180)
    assert [done for done, _ in seen[:5]] == [10, 20, 30, 36, 46]
    seen.clear()
    ours.generate_batch([image(150, 200), image(1, 1)])  # crops of no pixels count as done
    assert seen[-1] == (360, 360)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize(("limit", "of_device"), [(1, 1000), (5, 1000), (1000, 1000), (64, 5)])
def test_points_per_batch_and_the_device_bound_the_decoder(limit, of_device, monkeypatch):
    monkeypatch.setattr(amg_parameters, "CPU_PROMPTS", of_device)
    _, ours = pair({"points_per_batch": limit, "use_m2m": True})
    ours.generate(image(60, 80))
    calls = ours.predictor.model.calls
    assert max(calls) <= min(limit, of_device)
    assert sum(calls) == 36 + 3 * 36


def test_copies():
    ours = SAM2AutomaticMaskGenerator(PaintedModel(), points_per_side=2, **ALL)
    for duplicate in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        duplicate.predictor.model.predictor(duplicate.predictor)
        assert len(duplicate.generate(image(60, 80))) == 12


def test_no_gradients():
    _, ours = pair(LOOSE)
    seen = []
    ours.progress = lambda *_: seen.append(torch.is_grad_enabled())
    ours.generate(image(60, 80))
    assert seen == [False] * len(seen) != []


def recording(base: type, names: list[str]) -> type:
    """A subclass that records calls of its methods."""

    def noted(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return getattr(base, name)(self, *args, **kwargs)

        return method

    return type("Recording", (base,), {"calls": [], **{name: noted(name) for name in names}})


@pytest.mark.parametrize("name", ["_generate_masks", "_process_crop", "_process_batch", "refine_with_m2m"])
def test_overridden_methods_are_called(name):
    options = LOOSE | {"use_m2m": name == "refine_with_m2m", "points_per_batch": 16, "crop_n_layers": 1}
    expected = pair(options)[0].generate(image(150, 200))
    official, ours = (
        generator(recording(base, [name]), PaintedModel(), **(GRID | options))
        for base in (OfficialGenerator, SAM2AutomaticMaskGenerator)
    )
    for made in (official, ours):
        assert_same_records(expected, made.generate(image(150, 200)))
        assert name in made.calls
    if name != "refine_with_m2m":
        assert official.calls == ours.calls


@pytest.mark.parametrize("m2m", [False, True])
def test_a_batch_of_points(m2m):
    options = LOOSE | {"use_m2m": m2m, "min_mask_region_area": 6}
    results = []
    for made in pair(options):
        made.predictor.set_image(image(80, 90))
        points = np.random.default_rng(0).random((25, 2)) * [90, 80]
        results.append(made._process_batch(points, (80, 90), [10, 15, 100, 95], (100, 110), normalize=True))
    expected, actual = (dict(result.items()) for result in results)
    assert len(expected["rles"]) > 3
    assert actual.keys() == expected.keys()
    for key, column in expected.items():
        if isinstance(column, list):
            assert actual[key] == column
        else:
            assert actual[key].dtype == column.dtype
            assert torch.equal(actual[key], column), key


def test_refining_masks():
    results = []
    for made in pair({}):
        made.predictor.set_image(image(80, 90))
        rng = torch.Generator().manual_seed(0)
        points, masks = torch.rand(5, 2, generator=rng) * 1024, torch.randn(5, SIDE, SIDE, generator=rng)
        results.append(made.refine_with_m2m(points, torch.ones(5, dtype=torch.int32), masks, 2))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("as_arrays", [False, True])
def test_small_regions_of_finished_masks(as_arrays, monkeypatch):
    """On masks after NMS, and again without their small regions."""
    import scipy.ndimage

    def remove(mask: np.ndarray, area: float, mode: str) -> tuple[np.ndarray, bool]:
        regions = ~mask if mode == "holes" else mask
        labels, count = scipy.ndimage.label(regions, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        small = regions & (sizes[labels] < area)
        if not small.any():
            return mask, False
        if mode == "holes":
            return mask | small, True
        return (labels == sizes[1:].argmax() + 1 if (small == regions).all() else regions & ~small), True

    monkeypatch.setattr("sam2.automatic_mask_generator.remove_small_regions", remove)
    results = []
    for made, kind in zip(pair({}), (OfficialGenerator, SAM2AutomaticMaskGenerator), strict=True):
        made.predictor.set_image(image(150, 200))
        points = made.point_grids[0] * [200, 150]
        made.pred_iou_thresh = made.stability_score_thresh = 0.4
        data = made._process_batch(points, (150, 200), [0, 0, 200, 150], (150, 200), normalize=True)
        if as_arrays:
            data.to_numpy()
            data["boxes"] = torch.from_numpy(data["boxes"])
        before = copy.deepcopy(data["rles"])
        results.append((kind.postprocess_small_regions(data, 25, 0.8), before))
    (expected, before), (actual, _) = results
    assert expected["rles"] == actual["rles"]
    assert 3 < len(expected["rles"]) < len(before)
    assert sum(rle not in before for rle in expected["rles"]) > 2
    assert torch.equal(expected["boxes"], actual["boxes"])
    empty = amg.MaskData(rles=[], boxes=torch.zeros(0, 4))
    assert SAM2AutomaticMaskGenerator.postprocess_small_regions(empty, 25, 0.8)["rles"] == []


def test_attributes():
    official, ours = pair({"crop_n_layers": 1})
    for name in vars(official):
        assert hasattr(ours, name), name
    for name in set(vars(official)) - {"predictor", "point_grids"}:
        assert getattr(official, name) == getattr(ours, name)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"points_per_side": None}, "points_per_side or point_grids"),
        ({"points_per_side": 0}, "points_per_side must be an integer of at least 1"),
        ({"pred_iou_thresh": float("nan")}, "pred_iou_thresh must be a number, got nan"),
        ({"stability_score_offset": -1.0}, "stability_score_offset .* at least 0"),
        ({"crop_overlap_ratio": 1.5}, "crop_overlap_ratio .* from 0 to 1"),
        ({"crop_n_layers": 3, "crop_n_points_downscale_factor": 2}, "leaves layer 3"),
        ({"output_mode": "png"}, "output_mode .*'png'"),
        ({"points_per_side": None, "point_grids": []}, "0 grids, .* needs 1"),
        ({"points_per_side": None, "point_grids": [np.zeros((4, 3))]}, r"point_grids\[0\]"),
        (
            {"points_per_side": None, "point_grids": [np.array([[12, 300], [0, 8]])]},
            r"point_grids\[0\] has values from 0 to 300; .* in \[0, 1\]: divide pixels by \(width, height\)",
        ),
        ({"points_per_side": None, "point_grids": [np.full((1, 2), np.nan)]}, "has values from nan to nan"),
    ],
    ids=lambda x: next(reversed(x)) if isinstance(x, dict) else "",
)
def test_invalid_parameters(options, word):
    with pytest.raises(ValueError, match=word):
        SAM2AutomaticMaskGenerator(PaintedModel(), **(GRID | options))


@pytest.mark.parametrize("factor", [1, 2])
def test_crop_layers_that_are_raised_after_the_construction(factor):
    """The official package raises an IndexError. Here, records equal the records with layers from the constructor."""
    options, done = LOOSE | {"crop_n_points_downscale_factor": factor}, []
    expected, raised = pair(options | {"crop_n_layers": 2})[1], pair(options)[1]
    before = raised.generate(image(150, 200))
    raised.crop_n_layers, raised.progress = 2, lambda *x: done.append(x)
    assert_same_records(expected.generate(image(150, 200)), raised.generate_batch([image(150, 200)])[0])
    assert before and done[-1] == (done[-1][1],) * 2
    raised.crop_n_layers = 0
    assert_same_records(before, raised.generate(image(150, 200)))


def test_explicit_grids_name_what_is_missing():
    ours = pair(LOOSE | {"points_per_side": None, "point_grids": [np.array([[0.5, 0.5]])]})[1]
    ours.crop_n_layers = 1
    with pytest.raises(ValueError, match="point_grids has 1 grids, but crop_n_layers 1 needs 2"):
        ours.generate(image(150, 200))


@pytest.mark.filterwarnings("ignore:OpenCV .* is not installed")  # as supervision says when it is imported
@pytest.mark.parametrize("crops", [0, 1])
@pytest.mark.parametrize("output_mode", automatic_mask_generator.OUTPUT_MODES)
def test_supervision_takes_the_records(output_mode, crops):
    import supervision

    options = LOOSE | {"crop_n_layers": crops}
    expected = sorted(pair(options)[1].generate(image(150, 200)), key=lambda record: -record["area"])
    found = pair(options | {"output_mode": output_mode})[1].generate(image(150, 200))
    detections = supervision.Detections.from_sam(found)
    assert len(detections) == len(expected) > 5
    np.testing.assert_array_equal(detections.mask, [record["segmentation"] for record in expected])
    # supervision's boxes end at the last pixel, as the records' do.
    np.testing.assert_array_equal(detections.xyxy, supervision.mask_to_xyxy(detections.mask))
    np.testing.assert_array_equal(detections.area, [record["area"] for record in expected])


def test_nano_from_pretrained():
    made = SAM2AutomaticMaskGenerator.from_pretrained(
        "sam2fast/nano", device="cpu", points_per_side=2, output_mode="coco_rle", pred_iou_thresh=0.1
    )
    assert (made.output_mode, len(made.point_grids[0]), made.pred_iou_thresh) == ("coco_rle", 4, 0.1)
    assert made.predictor.device == torch.device("cpu")
