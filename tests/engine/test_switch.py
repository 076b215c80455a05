"""Which parts of a model are computed from plans: what is changed takes effect in the next call, and only its part is
called module by module."""

import copy
import gc
import pickle
import types
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from at_once import at_once
from mini_model import mini_model
from planned import by_modules, difference, parts_of, results
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from sam2fast.engine import Parts, engine_for
from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.standard import observing
from sam2fast.modeling.two_way_transformer import TwoWayAttentionBlock
from sam2fast.research import backend, override_op

BLOCKS = {"image": "image_encoder.trunk.blocks.1", "masks": "sam_mask_decoder.transformer.layers.1"}


@pytest.fixture(scope="module")
def untouched():
    return mini_model()


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


ALL, NONE = Parts(*[True] * 4), Parts(*[False] * 4)


def without(part):
    return Parts(*(name != part for name in Parts._fields))


def test_an_unchanged_model(model):
    assert parts_of(model) == ALL
    assert difference(by_modules(model), results(model)) < 1e-5


def larger(module, args, result):
    return tuple(x * 1.5 for x in result) if isinstance(result, tuple) else result * 1.5


def with_larger_result(forward):
    return lambda self, *args, **kwargs: larger(None, None, forward(self, *args, **kwargs))


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 1.5


class OnlyLinear(torch.Tensor):
    """A weight of linear layers that knows no other operation, as torchao's; rounded coarsely."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear:
                x, weight, *bias = args
                return F.linear(x, (8 * weight.as_subclass(torch.Tensor)).round() / 8, *bias, **(kwargs or {}))
            assert func.__name__ in ("__get__", "is_floating_point"), func
            return func(*args, **(kwargs or {}))


class Larger(nn.Module):
    def forward(self, weight):
        return weight * 1.5


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
    "observed method": lambda b, patch: setattr(b.mlp, "forward", observing(partial(type(b.mlp).forward, b.mlp))),
}


@pytest.mark.parametrize("part", BLOCKS)
@pytest.mark.parametrize("name", [*CHANGES, *NO_CHANGE_OF_RESULTS])
@torch.no_grad()
def test_a_change_of_a_part(model, part, name, monkeypatch):
    """It takes effect; the other part stays."""
    before, block = results(model), model.get_submodule(BLOCKS[part])
    assert parts_of(model) == ALL
    (CHANGES | NO_CHANGE_OF_RESULTS)[name](block, monkeypatch)
    after = results(model)
    assert parts_of(model) == without(part)
    assert difference(by_modules(model), after) < 1e-5
    assert (difference(before, after) > 1e-3) == (name in CHANGES)


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


def optimiser_step(layer):
    with torch.enable_grad():
        layer(torch.ones(1, layer.in_features)).sum().backward()
    torch.optim.SGD([layer.weight], lr=1.0).step()


def loaded(layer, **options):
    layer.load_state_dict({name: 1.5 * value for name, value in layer.state_dict().items()}, **options)


# Of a linear layer, after which its part is computed from a plan with other values.
VALUES = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "in place through data": lambda layer: layer.weight.data.mul_(1.5),
    "other data": lambda layer: setattr(layer.weight, "data", 1.5 * layer.weight.data),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(1.5 * layer.weight)),
    "optimiser": optimiser_step,
    "loaded": loaded,
    "loaded by assignment": lambda layer: loaded(layer, assign=True),
}
LAYERS = {
    "image": ["image_encoder.trunk.blocks.1.mlp.layers.0", "image_encoder.trunk.blocks.2.attn.qkv"],
    "masks": [
        "sam_mask_decoder.transformer.layers.0.self_attn.v_proj",
        "sam_mask_decoder.iou_prediction_head.layers.1",
    ],
}


@pytest.mark.parametrize("layer", sum(LAYERS.values(), []))
@pytest.mark.parametrize("name", VALUES)
@torch.no_grad()
def test_changed_values(model, layer, name):
    before = results(model)
    VALUES[name](model.get_submodule(layer))
    after = results(model)
    assert parts_of(model) == ALL
    assert difference(before, after) > 1e-3 and difference(by_modules(model), after) < 1e-5


DERIVED = [
    "image_encoder.trunk.pos_embed",
    "image_encoder.trunk.pos_embed_window",
    "image_encoder.trunk.patch_embed.proj.weight",
    "image_encoder.neck.convs.3.conv.weight",
    "sam_mask_decoder.conv_s0.weight",
    "sam_mask_decoder.output_upscaling.0.weight",
    "sam_mask_decoder.output_upscaling.3.weight",
    "sam_mask_decoder.iou_token.weight",
    "sam_prompt_encoder.point_embeddings.1.weight",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "sam_prompt_encoder.mask_downscaling.0.weight",
]


@pytest.mark.parametrize("through_data", [False, True])
@pytest.mark.parametrize("name", DERIVED)
@torch.no_grad()
def test_values_from_which_others_are_derived(model, name, through_data):
    """Written where they are, also unseen by version counters."""
    before, value = results(model), model.get_parameter(name) if "matrix" not in name else model.get_buffer(name)
    (value.data if through_data else value).add_(torch.linspace(-1, 1, value.numel()).view_as(value))
    after = results(model)
    assert parts_of(model) == ALL
    assert difference(before, after) > 1e-4 and difference(by_modules(model), after) < 1e-5


@torch.no_grad()
def test_another_dtype(model):
    before = results(model)
    model.to(torch.bfloat16)
    assert parts_of(model) == ALL
    after = results(model)
    assert difference(before, after) > 1e-3 and difference(by_modules(model), after) < 1e-5
    model.float()
    assert difference(by_modules(model), results(model)) < 1e-5


SETTINGS = {
    "image_encoder.trunk.blocks.1.window_size": 4,
    "image_encoder.trunk.blocks.1.attn.num_heads": 1,
    "image_encoder.trunk.blocks.1.norm1.eps": 0.5,
    "image_encoder.scalp": 0,
    "image_encoder.neck.fpn_top_down_levels": [0, 1, 2],
    "image_encoder.neck.fpn_interp_model": "bilinear",
    "sam_mask_decoder.transformer.layers.1.self_attn.num_heads": 1,
    "sam_mask_decoder.output_upscaling.1.eps": 0.5,
    "sam_mask_decoder.iou_prediction_head.sigmoid_output": False,
    "sam_prompt_encoder.input_image_size": (64, 64),
    "num_feature_levels": 2,
}


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_changed_settings(model, name):
    before, (owner, _, attribute) = results(model), name.rpartition(".")
    assert getattr(model.get_submodule(owner), attribute) != SETTINGS[name]
    setattr(model.get_submodule(owner), attribute, SETTINGS[name])
    assert parts_of(model) == ALL
    if name in ("image_encoder.scalp", "num_feature_levels"):  # other levels, for which the decoder is not made
        images = torch.zeros(1, 3, 128, 128)
        expected, actual = model.encode_image(images), engine_for(model).encode(images)
        assert len(actual) == len(expected) and difference(expected, actual) < 1e-5
    else:
        after = results(model)
        assert difference(before, after) > 1e-4 and difference(by_modules(model), after) < 1e-5


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("image_encoder.neck.fuse_type", "avg", "image"),
        ("image_encoder.trunk.blocks.1.mlp.act.approximate", "tanh", "image"),
        ("sam_mask_decoder.output_upscaling.2.approximate", "tanh", "masks"),
    ],
)
@torch.no_grad()
def test_settings_without_a_plan(model, name, value, part):
    results(model)
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, value)
    assert parts_of(model) == without(part)
    assert difference(by_modules(model), results(model)) < 1e-5


@torch.no_grad()
def test_tensors_that_a_user_keeps_on_modules(model):
    """Another one in each call; comparing them would not say whether they are equal."""
    before = results(model)
    for value in (torch.zeros(3), torch.ones(3)):
        model.sam_mask_decoder.seen = value
        assert parts_of(model) == ALL and difference(before, results(model)) == 0


@pytest.mark.parametrize("name", ["encode_image", "forward_image", "_prepare_backbone_features"])
@pytest.mark.parametrize("where", ["instance", "class", "subclass"])
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


@torch.no_grad()
def test_where_modules_are_called(model):
    engine = engine_for(model)
    assert engine.parts() == ALL
    with torch.enable_grad():
        assert engine.parts() == NONE
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.parts() == NONE
    with FlopCounterMode(display=False):
        assert engine.parts() == NONE
    with FakeTensorMode():
        assert engine.parts() == NONE
    with backend("torch"):
        assert engine.parts() == ALL
    with backend("triton"):
        assert engine.parts() == NONE
    with torch.inference_mode():
        assert engine.parts() == ALL
    model.train()
    assert engine.parts() == NONE
    model.eval()
    assert engine.parts() == ALL
    model.to("meta")
    assert engine.parts() == NONE


def test_compilers_see_modules(model, monkeypatch):
    engine, seen = engine_for(model), []
    monkeypatch.setattr(model.image_encoder, "forward", lambda *args: None)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        assert engine.parts() == NONE and not seen


def test_custom_ops(model):
    calls = []

    def attend(*args):
        calls.append(args)
        return window_attention_reference(*args)

    results(model)
    with override_op("window_attention", attend):
        results(model)
    assert len(calls) == len(model.image_encoder.trunk.blocks)


def test_weights_made_in_inference_mode():
    """They have no version counters."""
    with torch.inference_mode():
        model = mini_model()
        before = results(model)
        assert parts_of(model) == ALL
        model.sam_mask_decoder.output_upscaling[0].weight.mul_(1.5)
        assert difference(before, results(model)) > 1e-4
    assert parts_of(model) == ALL and difference(by_modules(model), results(model)) < 1e-5


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
