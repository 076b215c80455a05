"""Compiles every part in the forms that users write. Results are the uncompiled part's, and a repeat adds no graph."""

import copy
from functools import cache
from operator import attrgetter
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import tame_weights
import torch
from compiled_forms import PARTS, WAYS, compile_module, graphs, inputs_of, tensors_in, use_aot_eager
from mini_model import mini_model, mini_predictor
from parity import NARROW, build_pair, random_map
from planned import difference, results
from shallow_repvit import shallow_repvit  # noqa: F401
from small_sam3 import small_sam3
from video import Session, clip, compare, jpeg_folder

from sam2fast.build_sam import build_sam2
from sam2fast.utils.testing import relative_error

SIDES = {"sam3": (168, 224), "edgetam": (256, 320)}  # sides of images
OPTIONS = ({"fullgraph": True}, {"dynamic": True}, {})
STATES = ("fp32", "loaded", "inference mode", "bfloat16", "autocast")
FIXED_SIZE = ("prompt_encoder", "mask_decoder")


class Case(NamedTuple):
    model: str
    part: str
    way: str
    options: dict[str, bool]
    state: str

    def __str__(self) -> str:
        return "-".join([self.model, self.part, self.way, *self.options, self.state])


def pairwise(models):
    """Returns a case for each part and way of a single model, or for each part of several models.

    Options and states alternate, so that all pairs of a part, a way, an option or a state occur.
    """
    names = [*PARTS]
    if len(models) == 1:
        pairs = [(models[0], i, j, i + j, 2 * i + j) for i in range(len(names)) for j in range(len(WAYS))]
    else:
        pairs = [(name, i, i + k, i + 2 * k, i + 3 * k) for k, name in enumerate(models) for i in range(len(names))]
    return [
        Case(name, names[i], WAYS[j % len(WAYS)], OPTIONS[k % len(OPTIONS)], STATES[m % len(STATES)])
        for name, i, j, k, m in pairs
    ]


def models_of(name):
    """Returns the model of the expected fp32 results (SAM 2: the official model) and, twice, the model to compile."""
    if name == "sam2":
        reference, model = build_pair("sam2.1_t", ["++model.image_size=128", *NARROW])
        return reference, model, model
    return [model_of(name)] * 3


@cache
def model_of(name):
    if name == "nano":
        return mini_model()
    if name == "sam3":
        return small_sam3()
    config = {"edgetam": "configs/edgetam/edgetam.yaml", "efficienttam": "efficienttam_ti"}[name]
    shallow = ["++model.memory_attention.num_layers=1"]
    if name == "efficienttam":
        shallow += ["++model.image_encoder.trunk.depth=2", "++model.image_encoder.trunk.window_block_indexes=[0]"]
    options = {"device": "cpu", "image_size": SIDES.get(name, (128,))[0], "hydra_overrides_extra": shallow}
    return tame_weights.built(build_sam2, config, None, **options)


def computed(model, part, arguments, state):
    """Returns the tensors that a part computes from copies of the arguments."""
    args, kwargs = copy.deepcopy(arguments)
    if state == "bfloat16":
        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, in_bfloat16, (args, kwargs))
    with torch.inference_mode(state == "inference mode"), torch.autocast("cpu", enabled=state == "autocast"):
        return tensors_in(attrgetter(PARTS[part])(model)(*args, **kwargs))


def in_bfloat16(x):
    return x.bfloat16() if x.is_floating_point() else x


def assert_equal(case, actual, expected, exact):
    """Asserts that ``actual`` is ``expected`` and ``exact`` (fp32), or as close to ``exact`` in lower precision."""
    for a, e, x in zip(actual, expected, exact, strict=True):
        if case.state in ("bfloat16", "autocast"):
            assert relative_error(x, a.float()) <= 2 * relative_error(x, e.float()) + 1e-5
        else:
            assert relative_error(e, a) <= 1e-5 and relative_error(x, a) <= 1e-4


def check(case):
    exact, plain, model = map(copy.deepcopy, models_of(case.model))
    if case.state == "bfloat16":
        plain, model = plain.bfloat16(), model.bfloat16()
    compile_module(model, PARTS[case.part], case.way, **case.options)
    if case.state == "loaded":
        weights = {name: 1.1 * x if x.is_floating_point() else x for name, x in exact.state_dict().items()}
        for x in (exact, plain):
            x.load_state_dict(weights)
        prefix = f"{PARTS[case.part]}._orig_mod" if case.way == "wrapped" else PARTS[case.part]
        model.load_state_dict({name.replace(PARTS[case.part], prefix, 1): x for name, x in weights.items()})
    side, other = SIDES.get(case.model, (128, 192))
    inputs = [inputs_of(exact, case.part, 1, side)]
    if case.part in FIXED_SIZE or case.way == "forward":
        inputs.append(inputs_of(exact, case.part, 2, side))
    else:
        inputs.append(inputs_of(exact, case.part, 1, other))
    seen = []
    for _ in range(2):
        for arguments in inputs:
            actual = computed(model, case.part, arguments, case.state)
            expected = computed(plain, case.part, arguments, case.state)
            assert_equal(case, actual, expected, computed(exact, case.part, arguments, "fp32"))
        seen.append(graphs())
    assert 0 < seen[0] <= len(inputs) and seen[1] == seen[0]


@pytest.mark.parametrize("case", pairwise(("nano",)), ids=str)
@torch.no_grad()
def test_forms(case):
    check(case)


def marked(case):
    """Marks cases with symbolic sizes as slow, because each of them takes up to a minute."""
    return pytest.param(case, marks=pytest.mark.slow if "dynamic" in case.options else ())


@pytest.mark.parametrize("case", [*map(marked, pairwise(("sam2", "edgetam", "efficienttam", "sam3")))], ids=str)
@torch.no_grad()
def test_forms_of_other_models(case):
    check(case)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_a_compiled_whole_model_segments(way):
    """Predictors call the model's parts and methods, which ``forward`` does not call, so nothing is compiled."""
    expected, holder = results(mini_model()), SimpleNamespace(model=mini_model())
    compile_module(holder, "model", way, fullgraph=True)
    assert difference(expected, results(holder.model)) <= 1e-5 and graphs() == 0


@pytest.mark.parametrize("part", ["image_encoder", "memory_encoder"])
def test_a_wrapped_encoder_tracks_all_objects_at_once(part, tmp_path, caplog):
    """Tests that a video session does not become the official dict, and that a stream opens."""
    video, records = jpeg_folder(tmp_path / "video", clip(3)), []
    for is_wrapped in (False, True):
        predictor = mini_predictor()
        if is_wrapped:
            compile_module(predictor, part, "wrapped", backend="eager")
        session = Session(predictor, video)
        session.points(0, 1, (60, 40, 1))
        session.points(0, 2, (30, 60, 1))
        session.propagate()
        records.append(session.records)
    compare(*records)
    assert graphs() > 0 and not [record for record in caplog.records if record.name.startswith("sam2fast")]
    with predictor.open_stream():
        pass


@pytest.mark.parametrize("build", [mini_model, small_sam3])
def test_a_configuration_compiles_the_encoder_in_training(build, monkeypatch):
    use_aot_eager(monkeypatch)
    model, plain = build(overrides=["++model.compile_image_encoder=true"]).train(), build(overrides=[]).train()
    plain.load_state_dict(model.state_dict())
    for seed in (0, 1):
        images = random_map(2, 3, model.image_size, model.image_size, seed=seed)
        levels = [x.image_encoder(images)["backbone_fpn"] for x in (plain, model)]
        for a, b in zip(*levels, strict=True):
            assert relative_error(a, b) <= 1e-5
        for x, level in zip((plain, model), levels, strict=True):
            x.zero_grad()
            sum(y.square().sum() for y in level).backward()
        for a, b in zip(plain.image_encoder.parameters(), model.image_encoder.parameters(), strict=True):
            assert a.grad is b.grad is None or relative_error(a.grad, b.grad) <= 1e-4
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", ["image_encoder", "mask_decoder"])
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_inductor(part, way):
    model, plain = mini_model(), mini_model()
    compile_module(model, PARTS[part], way, backend="inductor", fullgraph=True)
    for _ in range(2):
        arguments = inputs_of(plain, part)
        for a, b in zip(*(computed(x, part, arguments, "fp32") for x in (model, plain)), strict=True):
            assert relative_error(b, a) <= 1e-5
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max-autotune", "tiny"])
@torch.no_grad()
def test_inductor_with_more_work(name):
    if name == "tiny":
        plain, options = tame_weights.built(build_sam2, "configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu"), {}
    else:
        plain, options = mini_model(), {"mode": "max-autotune"}
    model = copy.deepcopy(plain)
    compile_module(model, "image_encoder", "wrapped", backend="inductor", **options)
    for _ in range(2):
        arguments = inputs_of(plain, "image_encoder", side=plain.image_size)
        for a, b in zip(*(computed(x, "image_encoder", arguments, "fp32") for x in (model, plain)), strict=True):
            assert relative_error(b, a) <= 1e-5
    assert graphs() == 1
