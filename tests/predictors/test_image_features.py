"""Features that are kept beside the predictor, the forms of its masks, and scores that are NaN."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from at_once import Held, at_once
from mini_model import mini_model
from safetensors import safe_open
from safetensors.torch import save_file

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor
from sam2fast.engine import Engine
from sam2fast.image_features import FACTS, Features
from sam2fast.io.rle import decode_rle
from sam2fast.utils.testing import relative_error

SIZES = [(40, 60), (60, 40), (33, 70), (50, 50), (1, 90)]
CLICK = {"point_coords": [[20, 15]], "point_labels": [1]}


@pytest.fixture
def predictor(model):
    return SAM2ImagePredictor(model)


def image(number):
    return np.random.default_rng(number).integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def of_each(predictor):
    """The results for each image, which is set."""
    results = []
    for i in range(5):
        predictor.set_image(image(i))
        results.append(predictor.predict(**CLICK))
    return results


def test_five_threads_and_five_images(model, predictor):
    expected = of_each(SAM2ImagePredictor(model))

    def work(i):
        def call():
            features = predictor.encode(image(i))
            assert features.size == SIZES[i]
            return [predictor.predict(**CLICK, features=features) for _ in range(5)]

        return call

    for i, found in enumerate(at_once(*map(work, range(5)))):
        for result in found:
            assert result[0].shape == (3, *SIZES[i])
            assert all(relative_error(a, b) <= 1e-5 for a, b in zip(result[1:], expected[i][1:], strict=True))
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict(**CLICK)


def test_the_image_that_is_set_stays(predictor):
    first, second = of_each(predictor)[:2]
    predictor.set_image(image(0))
    features = predictor.encode(image(1))
    assert_equal(predictor.predict(**CLICK, features=features), second)
    assert_equal(predictor.predict(**CLICK), first)
    assert predictor._orig_hw == [SIZES[0]]


def test_while_another_thread_sets_an_image(model, predictor, monkeypatch):
    features, expected = predictor.encode(image(1)), of_each(predictor)[1]
    held = Held(lambda: predictor.set_image(image(0)))
    with held.within(monkeypatch, Engine, "encode"):
        assert_equal(predictor.predict(**CLICK, features=features), expected)
        predictor.encode(image(2))


@pytest.mark.parametrize(
    "moved",
    [
        lambda features, path: features.to("cpu"),
        lambda features, path: copy.deepcopy(features),
        lambda features, path: pickle.loads(pickle.dumps(features)),
        lambda features, path: features.save(path) or Features.load(str(path)),
    ],
    ids=["device", "copy", "pickle", "file"],
)
def test_moved_features(model, predictor, moved, tmp_path):
    features = moved(predictor.encode(image(2)), tmp_path / "new" / "image.safetensors")
    assert features.size == SIZES[2] and features.device == torch.device("cpu")
    other = SAM2ImagePredictor(mini_model())  # the same weights
    assert_equal(other.predict(**CLICK, features=features), of_each(predictor)[2])


def test_features_of_another_model(predictor, tmp_path):
    changed = mini_model()
    with torch.no_grad():
        changed.no_mem_embed.add_(0.5)
    features = SAM2ImagePredictor(changed).encode(image(0))
    features.save(tmp_path / "file")
    for given in (features, Features.load(tmp_path / "file")):
        with pytest.raises(
            ValueError, match="the features come from another model: .*weights .* not .*; encode the image"
        ):
            predictor.predict(**CLICK, features=given)
    smaller = SAM2ImagePredictor(mini_model(["++model.image_size=64"])).encode(image(0))
    with pytest.raises(ValueError, match="image_size 64, not 128"):
        predictor.predict(**CLICK, features=smaller)


def test_features_on_another_device(predictor):
    with pytest.raises(ValueError, match=r"the features are on meta; move them: features.to\('cpu'\)"):
        predictor.predict(**CLICK, features=predictor.encode(image(0)).to("meta"))


def changed_facts(**values):
    def change(path):
        with safe_open(path, framework="pt") as content:
            facts = json.loads(content.metadata()[FACTS]) | values
            tensors = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118
        save_file(tensors, path, metadata={FACTS: json.dumps(facts)})

    return change


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "text": lambda path: path.write_text("no features"),
    "weights": lambda path: save_file({"image_embed": torch.zeros(1)}, path),
    "size": changed_facts(size=[0, 7]),
    "version": changed_facts(version=2),
    "another S": changed_facts(model={"image_size": 1024}),
    "no model": changed_facts(model=None),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_files_that_hold_no_features(predictor, damage, tmp_path):
    path = tmp_path / "image.safetensors"
    predictor.encode(image(0)).save(path)
    damage(path)
    with pytest.raises(ValueError, match="image.safetensors is not a features file saved by sam2fast, or is damaged"):
        Features.load(path)
    with pytest.raises(FileNotFoundError):
        Features.load(tmp_path / "nothing")


def test_a_failed_save_keeps_the_file(predictor, tmp_path, monkeypatch):
    path = tmp_path / "image.safetensors"
    predictor.encode(image(0)).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="image.safetensors"):
        predictor.encode(image(1)).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


PROMPTS = {
    "a click": CLICK,
    "three boxes": {"box": [[5, 5, 30, 30], [1, 2, 50, 38], [20, 10, 40, 30]], "multimask_output": False},
    "ragged": {"point_coords": [[[5, 5]], [[20, 20], [30, 9]], [[50, 30]]], "point_labels": [[1], [1, 0], [1]]},
}


@pytest.mark.parametrize("as_bits", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_forms_of_masks(model, prompt, as_bits, monkeypatch):
    """Also if masks leave the device as bits."""
    predictor = SAM2ImagePredictor(model, mask_threshold=0.3, max_hole_area=6, max_sprinkle_area=6)
    predictor.set_image(image(0))
    masks, *rest = predictor.predict(**prompt)
    if as_bits:
        monkeypatch.setattr("sam2fast.sam2_image_predictor.COPIES_BITS", ("cpu",))
        assert_equal(predictor.predict(**prompt), [masks, *rest])
        logits = predictor.predict(**prompt, return_logits=True)
        assert_equal([logits[0] > 0.3, *logits[1:]], [masks > 0, *rest])
    assert masks.dtype == np.float32 and 0 < masks.mean() < 1
    for mode in ("bool", "coco_rle", "low_res"):
        found, *others = predictor.predict(**prompt, output_mode=mode)
        assert_equal(others, rest)
        assert found.dtype == (object if mode == "coco_rle" else bool)
        if mode == "low_res":
            cleaned = predictor._transforms.cleaned(torch.from_numpy(rest[1]).reshape(-1, 1, 32, 32))
            np.testing.assert_array_equal(found, (cleaned > 0.3).reshape(rest[1].shape))
            continue
        if mode == "coco_rle":
            json.dumps(found.tolist())
            assert found.shape == rest[0].shape
            found = np.stack([decode_rle(rle) for rle in found.flat]).reshape(masks.shape)
        np.testing.assert_array_equal(found, masks > 0)


def test_a_replaced_method_returns_the_masks(model, monkeypatch):
    """Also where they would leave the device as bits."""
    monkeypatch.setattr("sam2fast.sam2_image_predictor.COPIES_BITS", ("cpu",))

    class Inverted(SAM2ImagePredictor):
        def _predict(self, *args, **kwargs):
            masks, *rest = super()._predict(*args, **kwargs)
            return ~masks, *rest

    plain, subclass, assigned = (each(model) for each in (SAM2ImagePredictor, Inverted, SAM2ImagePredictor))
    assigned._predict = lambda *args: Inverted._predict(subclass, *args)
    for predictor in (plain, subclass, assigned):
        predictor.set_image(image(0))
    expected = 1 - plain.predict(**CLICK)[0]
    np.testing.assert_array_equal(subclass.predict(**CLICK)[0], expected)
    np.testing.assert_array_equal(assigned.predict(**CLICK)[0], expected)
    original = SAM2ImagePredictor._predict

    def inverted(*args):
        masks, *rest = original(*args)
        return ~masks, *rest

    monkeypatch.setattr(SAM2ImagePredictor, "_predict", inverted)
    np.testing.assert_array_equal(plain.predict(**CLICK)[0], expected)


def test_forms_of_masks_of_a_batch(predictor):
    predictor.set_image_batch([image(0), image(1)])
    masks, _, _ = predictor.predict_batch([[[20, 15]]] * 2, [[1]] * 2)
    rles, _, _ = predictor.predict_batch([[[20, 15]]] * 2, [[1]] * 2, output_mode="coco_rle")
    for expected, found in zip(masks, rles, strict=True):
        assert_equal([decode_rle(rle) for rle in found], expected > 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_mode": "rle"}, "output_mode must be one of float, bool, low_res, coco_rle; got 'rle'"),
        ({"output_mode": "bool", "return_logits": True}, 'return_logits=True needs output_mode="float"'),
    ],
)
def test_unknown_forms(predictor, options, message):
    predictor.set_image(image(0))
    with pytest.raises(ValueError, match=message):
        predictor.predict(**CLICK, **options)


@pytest.fixture
def nan_model():
    """With NaN where a score is predicted."""
    model = mini_model()
    with torch.no_grad():
        model.sam_mask_decoder.iou_prediction_head.layers[-1].bias.fill_(float("nan"))
    return model


def test_scores_that_are_nan(nan_model):
    predictor = SAM2ImagePredictor(nan_model)
    predictor.set_image(image(0))
    with pytest.warns(UserWarning, match="the model's scores are NaN: its weights are damaged"):
        assert np.isnan(predictor.predict(**CLICK)[1]).all()
    for options in ({}, {"use_m2m": True}, {"crop_n_layers": 1}):
        generator = SAM2AutomaticMaskGenerator(nan_model, points_per_side=2, **options)
        with pytest.warns(UserWarning, match="the model's scores are NaN.*such masks do not pass the thresholds"):
            assert generator.generate(image(0)) == []


def test_finite_scores_give_no_warning(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAM2AutomaticMaskGenerator(model, points_per_side=2).generate(image(0))
