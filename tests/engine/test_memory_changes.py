"""Changes of what a video takes besides images take effect in the next call; only their part is called by modules."""

import types
from functools import partial
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from parity import random_map
from planned import (
    ALL,
    CHANGES,
    VALUES,
    assert_takes_effect,
    difference,
    everywhere,
    parts_of,
    set_at,
    shift,
    without,
    without_plans,
)
from planned_memory import by_modules, tracked

from sam2fast.engine import engine_for
from sam2fast.kernels.memory_attention import memory_attention_reference
from sam2fast.modeling.memory_attention import MemoryAttention
from sam2fast.modeling.sam2_base import OF_GIVEN_MASKS, OF_OBJECTS, SAM2Base


def larger(forward):
    return lambda self, *args, **kwargs: forward(self, *args, **kwargs) * 1.5


NO_CHANGE_OF_RESULTS = {
    "backward hook": lambda owner, name, layer: layer.register_full_backward_hook(lambda *args: None),
    "training": lambda owner, name, layer: layer.train(),
    "compiled": lambda owner, name, layer: layer.compile(backend="eager"),
}
LAYERS = {
    "memory_attention.layers.0.linear1": "attention",
    "memory_attention.layers.0.self_attn.v_proj": "attention",
    "memory_encoder.fuser.layers.0.pwconv2": "memory",
    "obj_ptr_proj.layers.1": "masks",
}


@pytest.mark.parametrize(("name", "path"), list(zip([*CHANGES, *NO_CHANGE_OF_RESULTS], cycle(LAYERS), strict=False)))
def test_a_change(model, name, path):
    """It takes effect, and the other parts stay. What notices it looks at all modules alike."""
    part, before, (owner, _, attribute) = LAYERS[path], tracked(model), path.rpartition(".")
    change = (CHANGES | NO_CHANGE_OF_RESULTS)[name]
    change(model.get_submodule(owner), attribute, model.get_submodule(path))
    assert parts_of(model) == without(part)
    after = tracked(model)
    assert difference(by_modules(model), after) < 1e-5
    assert (difference(before, after) > 1e-4) == (name in CHANGES)
    if part == "memory":  # masks are not concerned
        assert torch.equal(before[3], after[3])


@torch.no_grad()
def test_given_masks(model):
    """Their pointers are of present objects where the decoder's score is above the given one."""
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.sub_(3.0)
    features, high_res = random_map(2, 128, 8, 8), [random_map(1, 16, 32, 32), random_map(1, 32, 16, 16)]
    given = torch.stack([random_map(1, 128, 128) > 1] * 2)
    found = [engine_for(model).use_mask(features, high_res, given, presence) for presence in (0.0, -100.0)]
    with without_plans():
        expected = [engine_for(model).use_mask(features, high_res, given, presence) for presence in (0.0, -100.0)]
    for a, b in zip(expected, found, strict=True):
        assert difference(list(a[:4]), list(b[:4])) < 1e-5 and torch.equal(a.choice, b.choice)
    assert difference([found[0].pointer], [found[1].pointer]) > 1e-3


def test_what_downsamples_given_masks(model):
    def hook():
        return handles.append(model.mask_downsample.register_forward_hook(lambda module, args, result: result * 1.5))

    handles = []
    assert_takes_effect(tracked, model, hook, without("masks"))
    after = tracked(model)
    handles[0].remove()
    with torch.no_grad():
        for parameter in model.mask_downsample.parameters():
            parameter.mul_(1.5)
    assert parts_of(model) == ALL and difference(after, tracked(model)) < 1e-5


@torch.no_grad()
def test_what_projects_distances(model):
    """It is called for all pointers at once, once changed object by object, as in the official package."""
    seen, valid = [], torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    given = torch.arange(9.0).view(3, 3), valid, 20
    before = engine_for(model).encode_distances(*given)
    with without_plans():
        assert torch.equal(before, engine_for(model).encode_distances(*given))
    model.obj_ptr_tpos_proj.register_forward_hook(lambda module, args, result: seen.append(len(result)) or result * 1.5)
    assert parts_of(model) == without("memory")
    after = engine_for(model).encode_distances(*given)
    before, after = (x.unflatten(1, (3, -1)) for x in (before, after))  # tokens of each pointer
    assert seen == [2, 3] and difference([1.5 * before[valid]], [after[valid]]) < 1e-5
    assert before.shape == after.shape == (3, 3, model.hidden_dim // model.mem_dim, model.mem_dim)
    assert before[valid].abs().max() > 0 and torch.equal(before, before[:, :, :1].expand_as(before))


def test_a_patched_class(model, monkeypatch):
    tracked(model)
    monkeypatch.setattr(MemoryAttention, "forward", larger(MemoryAttention.forward))
    assert parts_of(model) == without("attention")


@pytest.mark.parametrize(
    ("path", "name"), list(zip([*LAYERS, "memory_encoder.pix_feat_proj"], cycle(VALUES), strict=False))
)
def test_changed_values(model, path, name):
    assert_takes_effect(tracked, model, lambda: VALUES[name](model.get_submodule(path)))


# What is computed of them is kept.
DERIVED = [
    "memory_attention.layers.0.self_attn.v_proj.weight",
    "memory_attention.layers.0.self_attn.out_proj.weight",
    "memory_attention.layers.0.cross_attn_image.v_proj.bias",
    "memory_attention.layers.0.cross_attn_image.out_proj.weight",
    "memory_attention.layers.0.linear1.bias",
    "memory_encoder.mask_downsampler.encoder.3.weight",
    "memory_encoder.fuser.layers.0.pwconv1.weight",
    "memory_encoder.fuser.layers.0.gamma",
    "obj_ptr_proj.layers.1.weight",
]


@pytest.mark.parametrize("name", DERIVED)
def test_values_from_which_others_are_derived(model, name):
    assert_takes_effect(everywhere(tracked), model, lambda: shift(model.get_parameter(name)))


SETTINGS = {
    "sigmoid_scale_for_mem_enc": 3.0,
    "sigmoid_bias_for_mem_enc": 1.0,
    "no_obj_embed_spatial": None,
    "soft_no_obj_ptr": True,
    "fixed_no_obj_ptr": False,
    "memory_attention.layers.0.norm1.eps": 0.5,
    "memory_encoder.fuser.layers.0.norm.eps": 0.5,
    "memory_encoder.fuser.layers.0.gamma": None,
}


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_changed_settings(model, name):
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.sub_(6.0)  # an object is absent
    assert_takes_effect(tracked, model, partial(set_at, model, name, SETTINGS[name]), least=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pos_enc_at_input", False),
        ("layers.0.pos_enc_at_attn", True),
        ("layers.0.pos_enc_at_cross_attn_queries", True),
        ("layers.0.pos_enc_at_cross_attn_keys", False),
    ],
)
def test_positions_elsewhere_than_in_published_models(model, name, value):
    """Plans have none there, so that modules are called."""
    change = partial(set_at, model.memory_attention, name, value)
    assert_takes_effect(tracked, model, change, without("attention"), least=1e-5)


def test_the_hook_of_attention(model):
    """It gets what the memory is attended to with, and nothing changes."""
    seen, engine = [], engine_for(model)
    expected = tracked(model)
    engine.attend_hook = lambda *args: seen.append(args)
    assert parts_of(model) == ALL and all(map(torch.equal, expected, tracked(model)))
    engine.attend_hook = None
    tracked(model)
    ((layer, query, memory, *rest),) = seen
    attention = model.memory_attention.layers[layer].cross_attn_image
    assert memory.pages.shape[0] == 4 and rest[2] is attention.v_proj.weight
    assert difference([memory_attention_reference(query, memory, *rest)], [attended_by(model)]) < 1e-5


def attended_by(model):
    """What the first layer reads of the memory, before it is projected."""
    found, layer = [], model.memory_attention.layers[0].cross_attn_image.out_proj
    handle = layer.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    tracked(model)
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "where"), list(zip(OF_GIVEN_MASKS, cycle(["instance", "class", "subclass"]), strict=False))
)
def test_a_method_of_the_model(model, name, where, monkeypatch):
    called, original = [], getattr(SAM2Base, name)

    def method(self, *args, **kwargs):
        called.append(self)
        return original(self, *args, **kwargs)

    tracked(model)
    if where == "instance":
        monkeypatch.setattr(model, name, types.MethodType(method, model))
    elif where == "class":
        monkeypatch.setattr(SAM2Base, name, method)
    else:
        model.__class__ = type("Custom", (type(model),), {name: method})
    tracked(model)
    assert called and parts_of(model) == (without("memory") if name in OF_OBJECTS else ALL)


def test_kinds_without_a_plan(model):
    """Another activation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.memory_attention.layers[0], "activation", F.gelu)
        assert parts_of(model) == without("attention")
    assert parts_of(model) == ALL
