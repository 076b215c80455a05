"""Wrapped, hooked, patched and replaced modules take effect as in the official package, on the same weights."""

import copy
import types
from collections import Counter
from functools import partial
from itertools import cycle

import pytest
import torch
from pair_results import attended, masks_of
from parity import random_map
from planned import OnlyLinear
from torch import nn
from torch.utils._pytree import tree_leaves
from video import NARROW, SMALL, build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast.engine import engine_for
from sam2fast.modeling.memory_attention import MemoryAttention
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.step_runner import StepRunner
from sam2fast.utils.testing import relative_error

PARTS = ("image_encoder", "sam_prompt_encoder", "sam_mask_decoder")


def assert_same_masks(models):
    for expected, actual in zip(*map(masks_of, models), strict=True):
        assert relative_error(expected, actual) <= 1e-4


class Wrapped(nn.Module):
    """A linear layer with an addition, as adapters have it; some of them also show the weight."""

    def __init__(self, layer, shows_weight, scale=0.1):
        super().__init__()
        self.layer, self.scale, self.calls = layer, nn.Parameter(torch.tensor(scale)), 0
        if shows_weight:
            self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * (1 + self.scale)


def wrap_all(model, names, **options):
    """Every linear layer below some parts."""
    wrapped = {}
    for part in names:
        for name, module in list(model.get_submodule(part).named_modules()):
            for child, layer in list(module.named_children()):
                if isinstance(layer, nn.Linear):
                    wrapped[f"{part}.{name}.{child}"] = Wrapped(layer, **options)
                    setattr(module, child, wrapped[f"{part}.{name}.{child}"])
    return wrapped


@pytest.mark.parametrize("shows_weight", [True, False])
@torch.no_grad()
def test_wrapped_linear_layers(models, shows_weight):
    wrapped = [wrap_all(model, (*PARTS, "memory_attention"), shows_weight=shows_weight) for model in models]
    assert_same_masks(models)
    assert relative_error(*map(attended, models)) <= 1e-4
    calls = [{name: layer.calls for name, layer in each.items()} for each in wrapped]
    assert calls[0] == calls[1] and min(calls[0].values()) > 0


def test_gradients_of_wrapped_layers(models):
    gradients = []
    for model in models:
        model.requires_grad_(False)
        wrapped = wrap_all(model, ("image_encoder", "memory_attention"), shows_weight=True)
        levels = model.forward_image(random_map(1, 3, 128, 128))["backbone_fpn"]
        (sum(x.square().mean() for x in levels) + attended(model).square().mean()).backward()
        gradients.append(torch.stack([layer.scale.grad for layer in wrapped.values()]))
    assert relative_error(*gradients) <= 1e-4 and gradients[0].abs().min() > 0


def counting(calls, name):
    """A forward hook that counts results by their shapes."""

    def hook(module, args, result):
        shapes = [tuple(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        calls[name, str(shapes)] += 1

    return hook


def test_hooks_on_a_model_that_is_called_during_a_step_of_another(untouched):
    """As a user's selection_watch or strategy calls one."""
    models, called = [copy.deepcopy(untouched[1]) for _ in range(2)], []
    models[1].sam_mask_decoder.transformer.register_forward_hook(lambda *call: called.append(call))
    runners, features = [StepRunner(model) for model in models], FeatureCache([], torch.device("cpu"))
    with runners[0].one_step(features):
        masks_of(models[1])
        with runners[1].one_step(features):
            masks_of(models[1])
        assert all(engine_for(models[0]).watches())
    assert len(called) == 2 and [runner.is_changed for runner in runners] == [False, True]


@torch.no_grad()
def test_a_method_that_is_put_back_and_patched_again(models):
    neck = models[1].image_encoder.neck
    neck.forward = original = neck.forward
    masks_of(models[1])
    assert engine_for(models[1]).parts().image
    called = []
    neck.forward = lambda *args: called.append(args) or original(*args)
    masks_of(models[1])
    assert called and not engine_for(models[1]).parts().image


@pytest.mark.parametrize("replace", [setattr, lambda owner, name, part: owner._modules.update({name: part})])
def test_a_patched_part_that_replaces_one_of_its_class(untouched, replace):
    model = copy.deepcopy(untouched[1])
    assert all(engine_for(model).watches())
    neck = copy.deepcopy(model.image_encoder.neck)
    neck.forward = lambda *args: None
    replace(model.image_encoder, "neck", neck)
    assert not all(engine_for(model).watches())


@torch.no_grad()
def test_replaced_modules(models):
    """A wrapped encoder, an adapter after a block's MLP, and another norm."""

    class Encoder(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images * 1.5)

    for model in models:
        blocks = model.image_encoder.trunk.blocks
        blocks[2].mlp = nn.Sequential(blocks[2].mlp, Wrapped(nn.Identity(), shows_weight=False))
        blocks[0].norm1 = nn.Sequential(blocks[0].norm1, Wrapped(nn.Identity(), shows_weight=False))
        model.image_encoder = Encoder(model.image_encoder)
    assert_same_masks(models)


@torch.no_grad()
def test_dynamic_quantization_finds_every_layer(models):
    quantised = [torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8) for model in models]
    counts = [sum("quantized" in type(m).__module__ for m in model.modules()) for model in quantised]
    assert counts[0] == counts[1] > 100
    assert_same_masks(quantised)


@torch.no_grad()
def test_weights_that_are_tensors_of_another_class(models):
    before = masks_of(models[1])
    for model in models:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        for layer in layers:
            layer._parameters["weight"] = layer.weight.detach().as_subclass(OnlyLinear)
    assert len(layers) > 90
    assert_same_masks(models)
    assert relative_error(*map(attended, models)) <= 1e-4
    assert relative_error(before[0], masks_of(models[1])[0]) > 0.01


@pytest.fixture
def video_models(video_pair):
    return copy.deepcopy(video_pair)


@pytest.fixture(scope="module")
def video_pair():
    return build_video_pair(overrides=NARROW, image_size=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(5))


def changed_after_three_frames(change):
    def scenario(session):
        session.points(0, 1, (60, 40, 1))
        session.points(1, 2, box=[20, 20, 70, 60])
        session.propagate(max_frame_num_to_track=2)
        change(session.predictor)
        session.propagate(start_frame_idx=3)

    return scenario


def wrap_memory(model):
    wrap_all(model, ("memory_attention", "sam_mask_decoder"), shows_weight=True)


def hook_memory(model):
    def doubled(module, args, result):
        return result * 1.1

    model.memory_attention.layers[0].cross_attn_image.register_forward_hook(doubled)
    model.memory_encoder.fuser.register_forward_hook(doubled)
    model.sam_mask_decoder.transformer.final_attn_token_to_image.register_forward_hook(doubled)


def replace_by_other_kinds(model):
    """Torch's own layers, where there were others of torch's own."""
    blocks, layers = model.image_encoder.trunk.blocks, model.memory_attention.layers
    decoder = model.sam_mask_decoder
    blocks[0].norm1 = blocks[1].norm2 = layers[0].norm2 = nn.Identity()
    model.memory_encoder.fuser.layers[0].norm = decoder.transformer.layers[0].norm1 = nn.Identity()
    for owner, name in (
        *((blocks[2].attn, "qkv"), (blocks[3].attn, "proj"), (layers[1].cross_attn_image, "k_proj")),
        *((decoder, "conv_s1"), (decoder.transformer.layers[1].self_attn, "q_proj"), (model, "obj_ptr_tpos_proj")),
        (model.memory_encoder, "pix_feat_proj"),
    ):
        setattr(owner, name, nn.Sequential(getattr(owner, name), nn.GELU()))


@pytest.mark.parametrize("change", [wrap_memory, hook_memory, replace_by_other_kinds])
def test_changes_during_a_video(video_models, change, folder):
    official, ours = video_models
    scenario = changed_after_three_frames(change)
    compare(run_official(official, folder, scenario, check_itself=False), run(ours, folder, scenario))


def test_hooks_on_every_module_in_a_video(video_models, folder):
    """As many calls, with results of the same shapes. Position encodings, without weights, are called more often."""
    seen, answers = [], []

    def scenario(session):
        session.points(0, 1, (60, 40, 1))
        session.points(1, 2, box=[20, 20, 70, 60])
        session.propagate(max_frame_num_to_track=2)
        session.points(2, 1, (50, 30, 0))
        session.mask(3, 3, torch.ones(90, 120, dtype=torch.bool))
        session.propagate(start_frame_idx=3)

    for model, runs in zip(video_models, (partial(run_official, check_itself=False), run), strict=True):
        calls = Counter()

        for name, module in model.named_modules():
            if not name.endswith("position_encoding"):
                module.register_forward_hook(counting(calls, name))
        answers.append(runs(model, folder, scenario))
        seen.append(calls)
    compare(*answers)
    assert len(seen[0]) > 150 and seen[1] == seen[0]


def doubled(module, args, result):
    return result * 1.5


def patched(forward):
    return lambda self, *args, **kwargs: forward(self, *args, **kwargs) * 1.5


def replaced_by_weaker(model, monkeypatch):
    weaker = copy.deepcopy(model.memory_attention)
    nn.init.zeros_(weaker.norm.weight)
    model.memory_attention = weaker


CHANGES = {
    "hook": lambda model, _: model.memory_attention.register_forward_hook(doubled),
    "pre hook": lambda model, _: model.memory_encoder.fuser.register_forward_pre_hook(lambda m, args: args[0] * 3),
    "hook on a layer": lambda model, _: model.image_encoder.trunk.blocks[1].norm1.register_forward_hook(doubled),
    "method of the instance": lambda model, _: setattr(
        model.memory_attention, "forward", types.MethodType(patched(MemoryAttention.forward), model.memory_attention)
    ),
    "method of the class": lambda model, monkeypatch: monkeypatch.setattr(
        MemoryAttention, "forward", patched(MemoryAttention.forward)
    ),
    "subclass": lambda model, _: setattr(
        model.memory_attention,
        "__class__",
        type("Custom", (MemoryAttention,), {"forward": patched(MemoryAttention.forward)}),
    ),
    "layer replaced": lambda model, _: setattr(
        (block := model.memory_encoder.fuser.layers[0]), "pwconv1", Wrapped(block.pwconv1, False, scale=2.0)
    ),
    "part replaced by one of the same class": replaced_by_weaker,
}
# They act on what later frames attend to.
ONLY_MEMORY = CHANGES["pre hook"], CHANGES["layer replaced"]


def tracked(predictor, folder, after_third=lambda: None):
    """The masks of every frame, and a change after the third."""
    state = predictor.init_state(str(folder))
    predictor.add_new_points_or_box(state, 0, 1, [[60, 40]], [1])
    for frame, _, logits in predictor.propagate_in_video(state, progress=False):
        yield logits
        if frame == 2:
            after_third()


@pytest.fixture(scope="module", params=[True, False])
def unchanged(request, video_pair, folder):
    """Whether steps are recorded, and the masks without a change."""
    predictor = copy.deepcopy(video_pair[1])
    predictor.fast = request.param
    return request.param, list(tracked(predictor, folder))


@pytest.mark.parametrize(
    ("unchanged", "change"), list(zip(cycle([True, False]), CHANGES.values(), strict=False)), indirect=["unchanged"]
)
def test_each_kind_of_change_takes_effect_in_the_next_frame(video_pair, folder, change, unchanged, monkeypatch):
    """With recorded steps, which are not replayed then, or without; `fast` records on the CPU, too."""
    predictor = copy.deepcopy(video_pair[1])
    predictor.fast, before = unchanged
    changed = tracked(predictor, folder, lambda: change(predictor, monkeypatch))
    first = 4 if change in ONLY_MEMORY else 3
    for frame, (expected, actual) in enumerate(zip(before, changed, strict=True)):
        assert torch.equal(expected, actual) == (frame < first), frame
