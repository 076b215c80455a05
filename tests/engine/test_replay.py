"""Images by recordings: the eager results bit by bit, and what changes takes effect."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
import recorded_ops
import torch
from mini_model import mini_model
from parity import random_image
from recorded_ops import CalledAgain, NoRecorder, RecordedOps, recorded_by

from sam2fast.amg import parameters
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.engine import graphs, replay
from sam2fast.engine.replay import MOST_RECORDINGS, graph_calls_of
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

CPU = torch.device("cpu")
IMAGES = [random_image(90, 120, seed) for seed in range(3)]
CLICK = {"point_coords": [[60, 40]], "point_labels": [1]}
BOX = {"box": [10, 10, 60, 50], "multimask_output": False}
TWO_CLICKS = {"point_coords": [[60, 40], [20, 20]], "point_labels": [1, 0]}
THREE_CLICKS = {"point_coords": [[60, 40], [20, 20], [9, 70]], "point_labels": [1, 0, 1]}


def many(count: int) -> dict:
    points = np.random.default_rng(count).uniform(0, 90, (count, 1, 2))
    return {"point_coords": points, "point_labels": np.ones((count, 1))}


def with_masks(prompt: dict, count: int) -> dict:
    masks = np.random.default_rng(0).normal(0, 5, (count, 1, 32, 32)).astype(np.float32)
    return {**prompt, "mask_input": masks, "multimask_output": False}


@pytest.fixture(scope="module")
def made():
    return mini_model()


@pytest.fixture
def model(made, monkeypatch):
    """One that computes as on a GPU, and whose recordings are of operations."""
    recorded_ops.as_on_a_gpu(monkeypatch)
    recorded_by(monkeypatch, RecordedOps)
    return copy.deepcopy(made)


def predictor_of(model, fast=True):
    predictor = SAM2ImagePredictor(model)
    predictor.fast = fast
    return predictor


def results(predictor, prompt, images=IMAGES[:1]):
    """The features of images, and the masks of a prompt on them."""
    found = []
    for image in images:
        predictor.set_image(image)
        tensors = predictor._features
        found += [tensors["image_embed"], *tensors["high_res_feats"]]
        found += map(torch.from_numpy, predictor.predict(**prompt, return_logits=True))
    return found


def assert_equal(expected, actual):
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def assert_eager(predictor, prompt=CLICK, images=IMAGES[:1]):
    """The results are those without recordings."""
    assert_equal(results(predictor_of(predictor.model, False), prompt, images), results(predictor, prompt, images))


PROMPTS = {
    "click": CLICK,
    "box": BOX,
    "two clicks": TWO_CLICKS,
    "click with a mask": with_masks(CLICK, 1),
    "64 clicks": many(64),
    "64 clicks with masks": with_masks(many(64), 64),
    "64 clicks with one mask": with_masks(many(64), 1),
    "256 clicks": many(256),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_replays_are_the_eager_results(model, name):
    """Bit by bit; each shape is recorded once."""
    assert_eager(predictor_of(model), PROMPTS[name], IMAGES[: 1 if name == "256 clicks" else 2])
    assert RecordedOps.made == 2


@pytest.mark.parametrize("prompt", [THREE_CLICKS, many(3), with_masks({}, 1)], ids=["points", "prompts", "mask alone"])
def test_other_shapes_run_eagerly(model, prompt):
    predictor = predictor_of(model)
    assert_eager(predictor, prompt)
    assert RecordedOps.made == 1, "the encoding"


def test_batches_of_images_run_eagerly(model):
    """Their masks are decoded image by image."""
    found = []
    for fast in (False, True):
        predictor = predictor_of(model, fast)
        predictor.set_image_batch(IMAGES)
        found.append([torch.from_numpy(x) for x in sum(predictor.predict_batch([[[60, 40]]] * 3, [[1]] * 3), [])])
    assert_equal(*found)
    assert RecordedOps.made == 1, "the decoding"


def test_there_are_few_recordings(model):
    """Each keeps its input and results."""
    predictor = predictor_of(model)
    kinds = [{"mask_input": np.zeros((1, 32, 32))}, {"multimask_output": False}]
    options = [{}, *kinds, kinds[0] | kinds[1]]
    for prompt in (CLICK, TWO_CLICKS, many(64)):
        for more in options:
            assert_eager(predictor, prompt | more)
    assert RecordedOps.made == MOST_RECORDINGS


def test_automatic_masks(model, monkeypatch):
    monkeypatch.setattr(parameters, "CPU_PROMPTS", 64)
    found = []
    for fast in (False, True):
        generator = SAM2AutomaticMaskGenerator(
            model, points_per_side=9, pred_iou_thresh=0.0, stability_score_thresh=0.0, use_m2m=True
        )
        generator.predictor.fast = fast
        found.append([generator.generate(image) for image in IMAGES[:2]])
    assert RecordedOps.made == 3, "encodings, and decodings of 64 points without masks and with"
    for expected, actual in zip(*found, strict=True):
        assert len(expected) == len(actual) > 0
        for a, b in zip(expected, actual, strict=True):
            assert np.array_equal(a.pop("segmentation"), b.pop("segmentation")) and a == b


def test_what_is_returned_is_the_callers(model):
    """The next image does not write into the embeddings and masks of the one before."""
    predictor = predictor_of(model)
    kept, copies = [], []
    for image in IMAGES:
        predictor.set_image(image)
        features = predictor.encode(image).tensors
        point = torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1, dtype=torch.int32)
        tensors = [predictor.get_image_embedding(), *predictor._features["high_res_feats"], features["image_embed"]]
        tensors += [*features["high_res_feats"], *predictor._predict_low_res(*point)]
        kept.append(tensors)
        copies.append([x.clone() for x in tensors])
    for tensors, as_returned in zip(kept, copies, strict=True):
        assert_equal(as_returned, tensors)


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(model, first):
    """Of the caller; recordings of one kind serve the other."""
    predictor = predictor_of(model)
    for mode in (first, not first, first):
        with torch.inference_mode(mode):
            assert_eager(predictor, images=IMAGES)
            assert predictor.get_image_embedding().is_inference() == mode
    assert RecordedOps.made == 2


# ---- changes ----


def replace(module, name):
    setattr(module, name, torch.nn.Parameter(getattr(module, name) * 2))


def move(parameter):
    parameter.data = parameter.data * 2


@torch.no_grad()
def write(parameter):
    parameter.mul_(2)


CHANGES = {
    "read directly": lambda m: write(m.image_encoder.trunk.blocks[0].attn.qkv.weight),
    "composed": lambda m: write(m.sam_mask_decoder.conv_s0.weight),
    "joined": lambda m: write(m.sam_mask_decoder.transformer.layers[0].self_attn.q_proj.weight),
    "head": lambda m: write(m.sam_mask_decoder.output_hypernetworks_mlps[1].layers[0].weight),
    "positions": lambda m: write(m.image_encoder.trunk.pos_embed),
    "a prompt's": lambda m: write(m.sam_prompt_encoder.point_embeddings[1].weight),
    "added": lambda m: write(m.no_mem_embed),
    "moved": lambda m: move(m.sam_mask_decoder.iou_token.weight),
    "moved in the encoder": lambda m: move(m.image_encoder.trunk.blocks[1].mlp.layers[0].weight),
    "replaced": lambda m: replace(m.sam_mask_decoder.transformer.layers[1].mlp.layers[0], "weight"),
    "setting": lambda m: setattr(m.sam_mask_decoder, "dynamic_multimask_stability_thresh", -1.0),
    "loaded": lambda m: m.load_state_dict({name: x * 1.05 for name, x in m.state_dict().items()}),
    "dtype": lambda m: m.to(torch.bfloat16),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_between_two_images_counts(model, name):
    predictor, single = predictor_of(model), {**CLICK, "multimask_output": False}
    before = results(predictor, CLICK) + results(predictor, single)
    CHANGES[name](model)
    after = results(predictor, CLICK) + results(predictor, single)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    eager = predictor_of(copy.deepcopy(model), False)
    assert_equal(results(eager, CLICK) + results(eager, single), after)


def test_what_is_changed_between_two_prompts_counts(model):
    """Weights of the decoder, without another image."""
    predictor, expected = predictor_of(model), predictor_of(model, False)
    for each in (predictor, expected):
        each.set_image(IMAGES[0])
    for change in (lambda m: None, CHANGES["head"], CHANGES["moved"], CHANGES["replaced"]):
        change(model)
        assert_equal(*([torch.from_numpy(x) for x in each.predict(**CLICK)] for each in (expected, predictor)))


def test_hooks_are_called(model):
    predictor, called = predictor_of(model), []
    assert_eager(predictor)
    made = RecordedOps.made
    for part in (model.sam_mask_decoder.iou_prediction_head, model.image_encoder.neck):
        hook = part.register_forward_hook(lambda *_: called.append(1))
        results(predictor, CLICK, IMAGES)
        hook.remove()
    assert len(called) == 6
    assert_eager(predictor)
    assert RecordedOps.made >= made + 1, "again"


def test_training_mode_and_gradients_run_eagerly(model):
    predictor = predictor_of(model)
    model.train()
    predictor.set_image(IMAGES[0])
    model.eval()
    images = torch.zeros(1, 3, model.image_size, model.image_size)
    with torch.enable_grad():
        assert replay.encode(model, True, images)[-1].requires_grad
    assert RecordedOps.made == 0


def test_autocast_has_recordings_of_its_own(model):
    predictor = predictor_of(model)
    for _ in range(2):
        assert_eager(predictor)
        with torch.autocast("cpu", torch.bfloat16):
            assert_eager(predictor)
    assert RecordedOps.made == 4


# ---- use ----


@pytest.mark.parametrize(("count", "recorded"), [(2, 1), (3, 0), (4, 1), (8, 1)])
def test_batches_of_images(model, count, recorded):
    """Frequent numbers of images are recorded once, and replayed with other images."""
    features = []
    for fast in (False, True, True):
        predictor = predictor_of(model, fast)
        for seed in (0, 10):
            predictor.set_image_batch([random_image(90, 120, seed + i) for i in range(count)])
        features.append([predictor._features["image_embed"], *predictor._features["high_res_feats"]])
    assert_equal(features[0], features[1])
    assert_equal(features[0], features[2])
    assert RecordedOps.made == recorded


def test_where_recording_fails_images_go_on_without(model, monkeypatch, caplog):
    """The log says it once for each shape; after ``release_recordings`` it is tried again."""
    predictor = predictor_of(model)
    recorded_by(monkeypatch, NoRecorder)
    for _ in range(2):
        for prompt in (CLICK, many(64)):
            assert_eager(predictor, prompt)
    for what in ("encodings of 1 images", "decodings of 1 prompts", "decodings of 64 prompts"):
        assert caplog.text.count(f"{what} cannot be recorded, and are run eagerly: operation not") == 1
    monkeypatch.setattr(NoRecorder, "is_broken", False)
    predictor.release_recordings()
    assert_eager(predictor)
    assert NoRecorder.made == 2


def test_released_recordings_are_freed_and_made_again(model):
    predictor = predictor_of(model)
    assert_eager(predictor)
    calls = graph_calls_of(model)
    kept = [
        weakref.ref(x) for x in (*calls._inputs.values(), *(x for _, found in calls._calls.values() for x in found[0]))
    ]
    del calls
    predictor.release_recordings()
    gc.collect()
    assert kept and not any(ref() is not None for ref in kept)
    assert_eager(predictor)
    assert RecordedOps.made == 4


def test_recordings_are_shared_by_a_models_predictors_and_end_with_it(model):
    for _ in range(2):
        assert_eager(predictor_of(model), images=IMAGES)
    assert RecordedOps.made == 2
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert clone not in replay._by_model


def test_models_are_collected(made, monkeypatch):
    recorded_by(monkeypatch, CalledAgain)
    model = copy.deepcopy(made)
    results(predictor_of(model), CLICK)
    ref = weakref.ref(model)
    assert model in replay._by_model
    del model
    gc.collect()
    assert ref() is None


def test_threads(model):
    """Each encodes and predicts on images of its own, with one predictor."""
    predictor, eager = predictor_of(model), predictor_of(model, False)
    expected = [eager.predict(**CLICK, features=eager.encode(image)) for image in IMAGES]
    wrong, barrier = [], threading.Barrier(len(IMAGES))

    def work(i):
        barrier.wait()
        for _ in range(5):
            found = predictor.predict(**CLICK, features=predictor.encode(IMAGES[i]))
            wrong.extend(1 for a, b in zip(expected[i], found, strict=True) if not np.array_equal(a, b))
            if i == 0:
                predictor.release_recordings()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(IMAGES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_on_the_cpu_nothing_is_recorded_unless_asked(made):
    predictor = SAM2ImagePredictor(made)
    assert predictor.fast is None
    results(predictor, CLICK)
    assert made not in replay._by_model


def test_where_it_is_safe(made, monkeypatch):
    """Asked for by name, it is not left out silently."""
    monkeypatch.setattr(type(made), "device", torch.device("cuda"))
    monkeypatch.setattr(graphs, "why_no_triton", lambda device: "needs triton 3.6")
    images = torch.zeros(1, 3, made.image_size, made.image_size)
    with pytest.raises(RuntimeError, match=r"fast is True, but needs triton 3\.6"):
        replay.encode(made, True, images)
    for fast in (None, False):
        replay.encode(made, fast, images)
    assert made not in replay._by_model


def test_copies_of_a_predictor(made):
    predictor = predictor_of(made)
    predictor.set_image(IMAGES[0])
    for clone in (copy.copy(predictor), copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert clone.fast is True
        assert np.array_equal(clone.predict(**CLICK)[2], predictor.predict(**CLICK)[2])
    predictor.release_recordings()
