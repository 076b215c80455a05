"""Which parts of a model are computed from plans: changes take effect in the next call, and only for their part."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import types
import weakref
from functools import partial
from itertools import cycle

import pytest
import torch
from at_once import at_once
from mini_model import mini_model
from planned import (
    ALL,
    IMAGE,
    NONE,
    Larger,
    OnlyLinear,
    Wrapped,
    by_modules,
    difference,
    parts_of,
    results,
    without,
    without_plans,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sam2fast.engine import Parts, _variant_for, by_plan, engine_for, unmodified
from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.two_way_transformer import TwoWayAttentionBlock
from sam2fast.research import backend, override_op
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

BLOCKS = {"image": "image_encoder.trunk.blocks.1", "masks": "sam_mask_decoder.transformer.layers.1"}


def test_an_unchanged_model(model):
    assert parts_of(model) == ALL
    assert difference(by_modules(model), results(model)) < 1e-5


def test_looking_at_a_class_does_not_change_it():
    class Layer(nn.Linear):
        pass

    unmodified._methods(Layer)
    assert "__annotations__" not in vars(Layer)


def larger(module, args, result):
    return tuple(x * 1.5 for x in result) if isinstance(result, tuple) else result * 1.5


def with_larger_result(forward):
    return lambda self, *args, **kwargs: larger(None, None, forward(self, *args, **kwargs))


def replaced_in_place_of_its_weight(layer, weight):
    layer._parameters["weight"] = weight


# Of a block, after which it is called module by module; the first hidden layer of its MLP is layers[0].
CHANGES = {
    "hook": lambda b, patch: b.norm2.register_forward_hook(larger),
    "hook on a list's layer": lambda b, patch: b.mlp.layers[0].register_forward_hook(larger),
    "pre hook": lambda b, patch: b.norm2.register_forward_pre_hook(lambda module, args: args[0][..., :1] - args[0]),
    "method of the instance": lambda b, patch: setattr(
        b.mlp, "forward", types.MethodType(with_larger_result(type(b.mlp).forward), b.mlp)
    ),
    "method of the class": lambda b, patch: patch.setattr(type(b), "forward", with_larger_result(type(b).forward)),
    "call of the class": lambda b, patch: patch.setattr(
        type(b), "__call__", with_larger_result(nn.Module.__call__), raising=False
    ),
    "method of the instance's call": lambda b, patch: setattr(
        b.mlp, "_compiled_call_impl", types.MethodType(with_larger_result(type(b.mlp).forward), b.mlp)
    ),
    "class": lambda b, patch: setattr(
        b, "__class__", type("Custom", (type(b),), {"forward": with_larger_result(type(b).forward)})
    ),
    "replaced module": lambda b, patch: setattr(b.mlp.layers, "0", Wrapped(b.mlp.layers[0])),
    "module replaced by another known one": lambda b, patch: setattr(b, "norm2", nn.Identity()),
    "module replaced in the dict": lambda b, patch: b._modules.update(mlp=Wrapped(b.mlp)),
    "tensor of another class": lambda b, patch: replaced_in_place_of_its_weight(
        b.mlp.layers[0], b.mlp.layers[0].weight.detach().as_subclass(OnlyLinear)
    ),
    "parametrisation": lambda b, patch: parametrize.register_parametrization(b.mlp.layers[0], "weight", Larger()),
}
NO_CHANGE_OF_RESULTS = {
    "backward hook": lambda b, patch: b.norm2.register_full_backward_hook(lambda *args: None),
    "backward pre hook": lambda b, patch: b.norm2.register_full_backward_pre_hook(lambda *args: None),
    "training": lambda b, patch: b.mlp.train(),
    "compiled": lambda b, patch: b.mlp.compile(backend="eager"),
    "partial of the method": lambda b, patch: setattr(b.mlp, "forward", partial(type(b.mlp).forward, b.mlp)),
}


@pytest.mark.parametrize(("name", "part"), list(zip([*CHANGES, *NO_CHANGE_OF_RESULTS], cycle(BLOCKS), strict=False)))
@torch.no_grad()
def test_a_change_of_a_part(model, part, name, monkeypatch):
    """It takes effect; the other part stays. What notices it looks at all modules alike."""
    before, block = results(model), model.get_submodule(BLOCKS[part])
    assert parts_of(model) == ALL
    (CHANGES | NO_CHANGE_OF_RESULTS)[name](block, monkeypatch)
    after = results(model)
    assert parts_of(model) == without(part)
    assert difference(by_modules(model), after) < 1e-5
    assert (difference(before, after) > 1e-3) == (name in CHANGES)


@pytest.mark.parametrize(
    ("name", "part", "where"),
    [
        ("image_encoder.neck", "image", "instance"),
        ("sam_mask_decoder.output_upscaling.0", "masks", "subclass"),
        ("sam_mask_decoder.transformer.layers.1.cross_attn_image_to_token", "masks", "call"),
        ("sam_prompt_encoder.pe_layer", "masks", "instance"),
    ],
)
def test_a_patched_forward_is_called(model, name, part, where):
    module, called = model.get_submodule(name), []
    forward = type(module).forward

    def patched(self, *args, **kwargs):
        called.append(self)
        return forward(self, *args, **kwargs)

    results(model)
    if where == "subclass":
        module.__class__ = type("Custom", (type(module),), {"forward": patched})
    else:
        name = "forward" if where == "instance" else "_compiled_call_impl"  # as nn.Module.compile sets it
        setattr(module, name, types.MethodType(patched, module))
    results(model)
    assert module in called and parts_of(model) == without(part)


def put(owner, name, layer):
    setattr(owner, name, layer.eval().requires_grad_(False))


def put_patches(model):
    patches = model.image_encoder.trunk.patch_embed
    put(patches, "proj", nn.Conv2d(3, patches.proj.out_channels, 7, 4, 3, padding_mode="reflect"))


def put_norm(model):
    block = model.image_encoder.trunk.blocks[1]
    put(block, "norm1", nn.LayerNorm(block.norm1.normalized_shape, 1e-6, bias=False))


def put_pool(model):
    block = next(block for block in model.image_encoder.trunk.blocks if block.pool is not None)
    block.pool = block.attn.q_pool = nn.MaxPool2d(3, 2, 1).eval()


def put_upscaling(model):
    layers = model.sam_mask_decoder.output_upscaling
    put(layers, "0", nn.ConvTranspose2d(layers[0].in_channels, layers[0].out_channels, 4, 2, 1))


def put_fuser(model):
    block = model.memory_encoder.fuser.layers[0]
    put(block, "dwconv", nn.Conv2d(*[block.dwconv.in_channels] * 2, 7, 1, 6, 2, block.dwconv.groups))


# Layers of the same class with settings that plans do not hold, and the part that is then called module by module.
OTHER_LAYERS = {
    "padding": ("image", put_patches),
    "norm without a shift": ("image", put_norm),
    "pooling": ("image", put_pool),
    "transposed convolution": ("masks", put_upscaling),
    "sigmoid": ("masks", lambda m: setattr(m.sam_mask_decoder.pred_obj_score_head, "sigmoid_output", True)),
    "positions": ("masks", lambda m: setattr(m.sam_mask_decoder.transformer.layers[1], "skip_first_layer_pe", True)),
    "tanh": ("masks", lambda m: setattr(m.sam_mask_decoder.output_upscaling[2], "approximate", "tanh")),
    "dilation": ("memory", put_fuser),
}


@pytest.mark.parametrize("name", OTHER_LAYERS)
@torch.no_grad()
def test_layers_of_the_same_class_with_other_settings(model, name):
    assert parts_of(model) == ALL
    part, change = OTHER_LAYERS[name]
    change(model)
    assert parts_of(model) == without(part)
    assert difference(by_modules(model), results(model)) < 1e-5


@pytest.mark.parametrize("name", ["hook", "method of the class"])
@torch.no_grad()
def test_a_change_before_the_first_call(model, name, monkeypatch):
    CHANGES[name](model.get_submodule(BLOCKS["image"]), monkeypatch)
    assert parts_of(model) == without("image")


@torch.no_grad()
def test_a_change_that_is_undone(model, monkeypatch):
    before = results(model)
    with monkeypatch.context() as patch:
        handle = model.image_encoder.trunk.blocks[1].register_forward_hook(larger)
        patch.setattr(TwoWayAttentionBlock, "forward", with_larger_result(TwoWayAttentionBlock.forward))
        assert parts_of(model) == Parts(False, False, True, True) and difference(before, results(model)) > 1e-3
        handle.remove()
    assert parts_of(model) == ALL and difference(before, results(model)) == 0


def global_hook(model, monkeypatch):
    return register_module_forward_hook(lambda module, args, result: None).remove


def layers_of_torch(model, monkeypatch):
    monkeypatch.setattr(nn.Linear, "forward", with_larger_result(nn.Linear.forward))
    return monkeypatch.undo


@pytest.mark.parametrize("change", [global_hook, layers_of_torch])
@torch.no_grad()
def test_a_change_of_all_modules(model, change, monkeypatch):
    before = results(model)
    undo = change(model, monkeypatch)
    try:
        assert parts_of(model) == NONE
        after = results(model)
        assert (difference(before, after) > 1e-3) == (change is layers_of_torch)
    finally:
        undo()
    assert parts_of(model) == ALL


@torch.no_grad()
def test_tensors_that_a_user_keeps_on_modules(model):
    """Another one in each call; comparing them would not say whether they are equal."""
    before = results(model)
    for value in (torch.zeros(3), torch.ones(3)):
        model.sam_mask_decoder.seen = value
        assert parts_of(model) == ALL and difference(before, results(model)) == 0


@pytest.mark.parametrize(
    ("name", "where"),
    [("encode_image", "instance"), ("forward_image", "class"), ("_prepare_backbone_features", "subclass")],
)
def test_a_method_of_the_model(model, name, where, monkeypatch):
    """What encodes images; the decoder is not concerned."""
    called, original = [], getattr(SAM2Base, name)

    def method(self, *args):
        called.append(self)
        return original(self, *args)

    results(model)
    if where == "instance":
        monkeypatch.setattr(model, name, types.MethodType(method, model))
    elif where == "class":
        monkeypatch.setattr(SAM2Base, name, method)
    else:
        model.__class__ = type("Custom", (type(model),), {name: method})
    results(model)
    assert called and parts_of(model) == without("image")


@torch.no_grad()
def test_replaced_parts(model):
    results(model)
    model.image_encoder = Wrapped(model.image_encoder)
    model.image_encoder.forward = lambda images: model.image_encoder.layer(images * 1.5)
    assert parts_of(model) == without("image") and difference(by_modules(model), results(model)) < 1e-5
    model.image_encoder = copy.deepcopy(model.image_encoder.layer)
    model.image_encoder.trunk.blocks[1].norm1.weight.mul_(1.5)
    assert parts_of(model) == ALL and difference(by_modules(model), results(model)) < 1e-5


@torch.no_grad()
def test_heads_in_the_decoder_belong_to_the_image_encoder(model):
    results(model)
    handle = model.sam_mask_decoder.conv_s1.register_forward_hook(larger)
    assert not parts_of(model).image and difference(by_modules(model), results(model)) < 1e-5
    handle.remove()
    model.sam_mask_decoder.conv_s1 = nn.Sequential(model.sam_mask_decoder.conv_s1, nn.GELU())
    assert not parts_of(model).image and difference(by_modules(model), results(model)) < 1e-5


@torch.no_grad()
def test_adapters_of_peft(model):
    peft = pytest.importorskip("peft")
    results(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "trunk" in name]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    assert parts_of(model) == without("image") and difference(by_modules(model), results(model)) < 1e-5
    merged = adapted.merge_and_unload()
    assert parts_of(merged) == ALL and difference(by_modules(merged), results(merged)) < 1e-5


@torch.no_grad()
def test_dynamic_quantisation(model):
    results(model)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert parts_of(quantised) == NONE


class Counted(TorchDispatchMode):
    """Counts ops."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_modes_of_users_see_the_ops_of_plans(model):
    expected = results(model)
    with Counted() as counted:
        assert difference(expected, results(model)) == 0
    with without_plans(), Counted() as of_modules:
        results(model)
    assert 100 < counted.count != of_modules.count


@torch.no_grad()
def test_flops_are_counted_module_by_module(model):
    """Torch's counter registers hooks for all modules."""
    with FlopCounterMode(display=False) as counter:
        results(model)
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert flops["ImageEncoder.trunk.blocks.1.mlp"] > 0 and flops["ImageEncoder"] < flops["Global"]


@torch.no_grad()
def test_where_modules_are_called(model):
    engine = engine_for(model)
    assert engine.parts() == ALL
    with torch.enable_grad():
        assert engine.parts() == NONE
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.parts() == ALL
    with Counted():
        assert engine.parts() == ALL
    with FlopCounterMode(display=False):
        assert engine.parts() == NONE
    from torch.fx.experimental.proxy_tensor import make_fx  # imports SymPy

    while_traced = []
    make_fx(lambda x: while_traced.append(_variant_for(torch.ones(1))) or x)(torch.ones(1))
    assert while_traced == [None]
    with FakeTensorMode():
        assert engine.parts() == NONE
    with backend("torch"):
        assert engine.parts() == ALL
    with backend("triton"):
        assert engine.parts() == ALL
    with torch.inference_mode():
        assert engine.parts() == ALL
    model.train()
    assert engine.parts() == NONE
    model.eval()
    assert engine.parts() == ALL
    model.to("meta")
    assert engine.parts() == NONE


def test_compilers_see_modules(model, monkeypatch):
    engine = engine_for(model)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        assert engine.parts() == NONE


def test_custom_ops(model):
    calls = []

    def attend(*args):
        calls.append(args)
        return window_attention_reference(*args)

    results(model)
    with override_op("window_attention", attend):
        results(model)
    assert len(calls) == len(model.image_encoder.trunk.blocks)


def test_a_click_looks_once(model, monkeypatch):
    looks, look = [], unmodified.PlannedPart.look
    monkeypatch.setattr(unmodified.PlannedPart, "look", lambda part, model: looks.append(part) or look(part, model))
    predictor, engine = SAM2ImagePredictor(model), engine_for(model)
    predictor.set_image(IMAGE)
    predictor.predict([[60, 40]], [1])
    assert looks == [engine._image, engine._masks]


@torch.no_grad()
def test_a_step_chooses_once(model, monkeypatch):
    """A change takes effect after the step, and weights are cast once."""
    casts, called, engine = [], [], engine_for(model)
    cast = by_plan.in_dtype
    monkeypatch.setattr(by_plan, "in_dtype", lambda plan, dtype: casts.append(dtype) or cast(plan, dtype))
    images = torch.zeros(1, 3, model.image_size, model.image_size)
    with torch.autocast("cpu", torch.bfloat16), engine.one_step():
        before = engine.encode(images)
        model.image_encoder.register_forward_hook(lambda *args: called.append(args))
        assert difference(before, engine.encode(images)) == 0
    assert casts == [torch.bfloat16] and not called
    with engine.one_step():
        engine.encode(images)
    assert len(called) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@torch.no_grad()
def test_copies_have_plans_of_their_own(model, copied):
    before = results(model)
    other = copied(model)
    other.image_encoder.trunk.blocks[0].mlp.layers[0].weight.mul_(1.5)
    assert difference(before, results(other)) > 1e-3 and difference(before, results(model)) == 0
    assert engine_for(other) is not engine_for(model)


def test_a_model_is_freed():
    model = mini_model()
    results(model)
    engine, gone = weakref.ref(engine_for(model)), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and engine() is None


def test_threads_share_a_model(model):
    """The first calls, which make the plans, are at the same time."""
    expected = by_modules(model)
    for found in at_once(*[lambda: results(model)] * 4):
        assert difference(expected, found) < 1e-5


def test_a_class_that_is_patched_before_the_engine_is_imported():
    code = """
import sys
from sam2fast.modeling.layers import MLP
forward, MLP.forward = MLP.forward, lambda self, x: forward(self, x)
assert "sam2fast.engine" not in sys.modules
from mini_model import mini_model
from planned import parts_of
model = mini_model()
print(*parts_of(model))
MLP.forward = forward
print(*parts_of(model))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True", "True", "True", "True", "True"]
