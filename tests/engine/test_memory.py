"""What a video takes besides images: plans compute what the modules do, and changed modules are called."""

import copy
import types

import pytest
import tame_weights
import torch
import torch.nn.functional as F
from mini_model import mini_model
from parity import NARROW, random_map
from planned import difference, parts_of, without_plans
from torch import nn
from torch.nn.utils import parametrize

from sam2fast import mini
from sam2fast.build_sam import build_sam2
from sam2fast.engine import Parts, engine_for
from sam2fast.engine.cpu import ops
from sam2fast.kernels import _cpu
from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling import layers
from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.memory_attention import MemoryAttention
from sam2fast.modeling.sam2_base import OF_OBJECTS, SAM2Base

ALL = Parts(True, True, True, True)
ATTENTION, ENCODER = "++model.memory_attention", "++model.memory_encoder"
CONFIGURATIONS = {
    "nano, narrow": (),
    "an odd map": ("++model.image_size=160",),
    "several layers": (f"{ATTENTION}.num_layers=3", f"{ENCODER}.fuser.num_layers=2"),
    "no positions at the input": (f"{ATTENTION}.pos_enc_at_input=false",),
    "positions in attention": tuple(
        f"{ATTENTION}.layer.pos_enc_at_{name}=true" for name in ("attn", "cross_attn_queries")
    ),
    "keys without positions": (f"{ATTENTION}.layer.pos_enc_at_cross_attn_keys=false",),
    "several heads": tuple(f"{ATTENTION}.layer.{name}_attention.num_heads=2" for name in ("self", "cross")),
    "no scale of layers": (f"{ENCODER}.fuser.layer.layer_scale_init_value=0",),
    "full convolutions": (f"{ENCODER}.fuser.layer.use_dwconv=false",),
    "linear pointers": ("++model.use_mlp_for_obj_ptr_proj=false",),
    "no pointers": (
        "++model.use_obj_ptrs_in_encoder=false",
        "++model.pred_obj_scores=false",
        "++model.fixed_no_obj_ptr=false",
    ),
    "without object scores": ("++model.pred_obj_scores=false", "++model.fixed_no_obj_ptr=false"),
    "soft pointers": ("++model.soft_no_obj_ptr=true",),
    "pointers that are added to": ("++model.fixed_no_obj_ptr=false",),
    "no embedding of absence": ("++model.no_obj_embed_spatial=false",),
    "binary masks of prompts": ("++model.binarize_mask_from_pts_for_mem_enc=true",),
    "one pointer for three masks": ("++model.use_multimask_token_for_obj_ptr=false",),
}
PUBLISHED = {
    "SAM 2": ("configs/sam2/sam2_hiera_t.yaml", NARROW),
    "SAM 2.1": ("configs/sam2.1/sam2.1_hiera_b+.yaml", NARROW),
    "MedSAM2": ("configs/medsam2/sam2.1_hiera_t512.yaml", NARROW),
    "mini": (mini.CONFIG, ()),
}


@pytest.fixture(scope="module")
def untouched():
    return mini_model()


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


def memories(model, pages=((0, 1, 2), (1, -1, -1)), pointers=(4, 1)):
    """Memories of one object for each row of ``pages``, of which -1 is none, and its number of pointers."""
    (H, W), m = model.memory_size, model.mem_dim
    B, tokens = len(pages), 4 * model.hidden_dim // m
    of_each = torch.tensor(pointers)[:, None] * model.hidden_dim // m
    return AttendedMemory(
        pages=random_map(4, H * W, m),
        page_table=torch.tensor(pages, dtype=torch.int32),
        page_time=torch.arange(len(pages[0]), dtype=torch.int32).expand(B, -1),
        position_encoding=random_map(H * W, m, seed=1),
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=random_map(B, tokens, m, seed=2),
        pointer_encoding=random_map(B, tokens, m, seed=3),
        pointer_valid=torch.arange(tokens).expand(B, -1) < of_each,
    )


@torch.no_grad()
def tracked(model, memory=None, points=None, prompt=None, multimask=False, from_prompt=False, fp8=False):
    """A frame's map for some objects, their masks and pointers, and their memories."""
    engine, side = engine_for(model), model.sam_image_embedding_size
    dtype = model.no_mem_embed.dtype
    C = model.hidden_dim
    features = random_map(1, C, side, side, seed=4).to(dtype)
    finer = []
    if model.use_high_res_features_in_sam:
        finer = [random_map(1, C // 8 * k, 4 // k * side, 4 // k * side, seed=5 + k).to(dtype) for k in (1, 2)]
    conditioned = engine.attend(features, memory or memories(model), fp8)
    found = engine.track(conditioned, finer, points, prompt, multimask)
    B, logits = len(conditioned), 5 * random_map(len(conditioned), 1, 4 * side, 4 * side, seed=8)
    scores = torch.linspace(-1, 1, B)[:, None]
    encoded = [
        engine.encode_memory(features, x, scores, from_prompt)
        for x in (logits, F.interpolate(logits, scale_factor=4.0, mode="bilinear"))
    ]
    return [conditioned, *encoded, *found._replace(choice=found.choice + 1)]


def by_modules(model, *args, **kwargs):
    with without_plans():
        return tracked(model, *args, **kwargs)


def assert_same(model, tolerance=1e-5, *args, **kwargs):
    assert parts_of(model) == ALL
    expected, found = by_modules(model, *args, **kwargs), tracked(model, *args, **kwargs)
    assert [(x.shape, x.dtype) for x in expected] == [(x.shape, x.dtype) for x in found]
    assert difference(expected, found) <= tolerance
    assert all(map(torch.equal, expected[:3], found[:3]))  # all but masks and pointers


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configurations(changes):
    model = mini_model(changes)
    for from_prompt in (False, True):
        assert_same(model, multimask=from_prompt, from_prompt=from_prompt)


@pytest.mark.parametrize("name", PUBLISHED)
def test_models(name):
    config, changes = PUBLISHED[name]
    model = build_sam2(config, None, device="cpu", hydra_overrides_extra=["++model.image_size=128", *changes])
    assert_same(tame_weights.fill(model, 0), from_prompt=True)


@pytest.mark.parametrize(
    ("pages", "pointers"),
    [
        ([[0]], [1]),
        ([[-1]], [0]),
        ([[-1], [2]], [3, 0]),
        ([[0, 1, 2, 3, 0, 1, 2]] * 5, [4] * 5),
        ([[3, -1, 0], [-1, -1, -1], [1, 2, 3]], [0, 0, 4]),
    ],
    ids=["one", "nothing", "pointers alone", "many", "different"],
)
def test_memories(model, pages, pointers):
    assert_same(model, 1e-5, memories(model, pages, pointers))


@pytest.mark.parametrize(("size", "chunk"), [(128, 2**10), (512, 2**14)])
def test_chunks(size, chunk, monkeypatch):
    """Of the same sizes as those of the modules; 1024 positions are attended to in blocks."""
    for owner in (ops, layers):
        monkeypatch.setattr(owner, "CHUNK", chunk)
    assert_same(mini_model([f"++model.image_size={size}"]))


def test_emulated_fp8_and_factors(model):
    memory = memories(model)
    slots = memory.page_table.shape[1] + memory.pointers.shape[1]
    assert_same(model, 1e-5, memory._replace(key_factors=0.5 + random_map(2, slots).sigmoid()), fp8="emulated")


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("points", [0, 1, 3])
def test_prompts(model, points, prompt):
    """Of one object; masks of another size than the decoder's."""
    coords = {"point_coords": torch.rand(1, points, 2) * 128, "point_labels": torch.ones(1, points, dtype=torch.int32)}
    mask = 5 * random_map(1, 1, 128, 128) if prompt else None
    assert_same(model, 1e-5, memories(model, [[0]], [2]), coords if points else None, mask, True)


class Best:
    """The second mask of each, and the rows of others."""

    parents = None

    def __init__(self, parents=None):
        self.chosen_for = parents

    def __call__(self, masks, ious, scores):
        self.parents = self.chosen_for
        return torch.ones(len(ious), 1, dtype=torch.int64)


@pytest.mark.parametrize("parents", [None, torch.tensor([1, 1, 0])])
@torch.no_grad()
def test_selections(model, parents):
    engine, maps = engine_for(model), random_map(3, 128, 8, 8)
    finer = [random_map(1, 16, 32, 32), random_map(1, 32, 16, 16)]
    middle = engine.track(maps, finer, None, None, True).score.median().item()
    found = engine.track(maps, finer, None, None, True, middle, Best(parents))
    with without_plans():
        expected = engine.track(maps, finer, None, None, True, middle, Best(parents))
    assert difference(list(expected), list(found)) <= 1e-5 and found.choice.eq(1).all()
    assert (found.mask == -1024).flatten(1).all(dim=1).sum() in (1, 2, 3)


@pytest.mark.parametrize("emulates", [True, False])
def test_bfloat16_weights(model, emulates, monkeypatch):
    monkeypatch.setattr(_cpu, "_EMULATES_BFLOAT16", emulates)
    expected, found = (compute(model.to(torch.bfloat16)) for compute in (by_modules, tracked))
    assert parts_of(model) == ALL
    assert [x.dtype for x in expected] == [x.dtype for x in found]
    assert all(map(torch.equal, expected[:3], found[:3])) and difference(expected, found) <= 1e-2


# ---- changes ----


def larger(forward):
    return lambda self, *args, **kwargs: forward(self, *args, **kwargs) * 1.5


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 1.5


class Larger(nn.Module):
    def forward(self, weight):
        return weight * 1.5


def patched(owner, name, layer):
    layer.forward = types.MethodType(larger(type(layer).forward), layer)


# Of a linear layer in a module.
CHANGES = {
    "hook": lambda owner, name, layer: layer.register_forward_hook(lambda module, args, result: result * 1.5),
    "pre hook": lambda owner, name, layer: layer.register_forward_pre_hook(lambda module, args: args[0] * 1.5),
    "method of the instance": patched,
    "wrapped": lambda owner, name, layer: setattr(owner, name, Wrapped(layer)),
    "class": lambda owner, name, layer: setattr(
        layer, "__class__", type("Custom", (nn.Linear,), {"forward": larger(nn.Linear.forward)})
    ),
    "parametrisation": lambda owner, name, layer: parametrize.register_parametrization(layer, "weight", Larger()),
}
NO_CHANGE_OF_RESULTS = {
    "backward hook": lambda owner, name, layer: layer.register_full_backward_hook(lambda *args: None),
    "training": lambda owner, name, layer: layer.train(),
    "compiled": lambda owner, name, layer: layer.compile(backend="eager"),
}
LAYERS = {
    "memory_attention.layers.0.linear1": "attention",
    "memory_attention.layers.0.self_attn.v_proj": "attention",
    "memory_encoder.fuser.layers.0.pwconv2": "memory",
    "obj_ptr_proj.layers.1": "memory",
}


def without(part):
    return Parts(*(name != part for name in Parts._fields))


@pytest.mark.parametrize(("path", "part"), LAYERS.items())
@pytest.mark.parametrize("name", [*CHANGES, *NO_CHANGE_OF_RESULTS])
def test_a_change(model, path, part, name):
    """It takes effect, and the other parts stay."""
    before, (owner, _, attribute) = tracked(model), path.rpartition(".")
    change = (CHANGES | NO_CHANGE_OF_RESULTS)[name]
    change(model.get_submodule(owner), attribute, model.get_submodule(path))
    assert parts_of(model) == without(part)
    after = tracked(model)
    assert difference(by_modules(model), after) < 1e-5
    assert (difference(before, after) > 1e-4) == (name in CHANGES)
    if part == "memory":  # masks are not concerned
        assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("method", ["forward", "attend"])
def test_a_patched_class(model, method, monkeypatch):
    tracked(model)
    monkeypatch.setattr(MemoryAttention, method, larger(getattr(MemoryAttention, method)))
    assert parts_of(model) == without("attention")


VALUES = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "through data": lambda layer: layer.weight.data.mul_(1.5),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(1.5 * layer.weight)),
    "loaded": lambda layer: layer.load_state_dict({name: 1.5 * x for name, x in layer.state_dict().items()}),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("path", [*LAYERS, "memory_encoder.pix_feat_proj"])
@torch.no_grad()
def test_changed_values(model, path, name):
    before = tracked(model)
    VALUES[name](model.get_submodule(path))
    after = tracked(model)
    assert parts_of(model) == ALL
    assert difference(before, after) > 1e-4 and difference(by_modules(model), after) < 1e-5


SETTINGS = {
    "sigmoid_scale_for_mem_enc": 3.0,
    "sigmoid_bias_for_mem_enc": 1.0,
    "no_obj_embed_spatial": None,
    "soft_no_obj_ptr": True,
    "fixed_no_obj_ptr": False,
    "memory_attention.pos_enc_at_input": False,
    "memory_attention.layers.0.cross_attn_image.pooling": "counted",
    "memory_attention.layers.0.pos_enc_at_attn": True,
    "memory_attention.layers.0.pos_enc_at_cross_attn_keys": False,
    "memory_attention.layers.0.norm1.eps": 0.5,
    "memory_encoder.fuser.layers.0.norm.eps": 0.5,
    "memory_encoder.fuser.layers.0.gamma": None,
}


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_changed_settings(model, name):
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.sub_(6.0)  # an object is absent
    before, (owner, _, attribute) = tracked(model), name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, SETTINGS[name])
    after = tracked(model)
    assert parts_of(model) == ALL
    assert difference(before, after) > 1e-5 and difference(by_modules(model), after) < 1e-5


def test_hooks_of_attention(model):
    """They are called until they are removed."""
    seen, attention = [], model.memory_attention.layers[0].cross_attn_image
    for hook, part in ((lambda *args: seen.append(args), without("attention")), (None, ALL)):
        attention.attend_hook = hook
        tracked(model)
        assert parts_of(model) == part and len(seen) == 1


@pytest.mark.parametrize("where", ["instance", "class", "subclass"])
@pytest.mark.parametrize("name", OF_OBJECTS)
def test_a_method_of_the_model(model, name, where, monkeypatch):
    called, original = [], getattr(SAM2Base, name)

    def method(self, *args):
        called.append(self)
        return original(self, *args)

    tracked(model)
    if where == "instance":
        monkeypatch.setattr(model, name, types.MethodType(method, model))
    elif where == "class":
        monkeypatch.setattr(SAM2Base, name, method)
    else:
        model.__class__ = type("Custom", (type(model),), {name: method})
    tracked(model)
    assert called and parts_of(model) == without("memory")


def test_kinds_without_a_plan(model):
    """Another activation, and attention that is listened to."""
    layer = model.memory_attention.layers[0]
    for owner, name, value in (
        (layer, "activation", F.gelu),
        (RoPEAttention, "attend_hook", print),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, value)
            assert parts_of(model) == without("attention")
        assert parts_of(model) == ALL
