"""Tests that plans of SAM 2's relatives compute the modules' results, and that changes affect the next call."""

import copy
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
import tame_weights
import torch
from parity import random_map
from planned import (
    ALL,
    CHANGES,
    VALUES,
    assert_as_near,
    assert_same,
    assert_takes_effect,
    difference,
    everywhere,
    parts_of,
    set_at,
    without,
    without_plans,
)
from shallow_repvit import shallow_repvit  # noqa: F401
from torch import nn

import sam2fast.configs
from sam2fast.build_sam import build_sam2
from sam2fast.engine import engine_for
from sam2fast.engine.cpu import ops
from sam2fast.engine.derived import _tensors
from sam2fast.engine.static import image as static_image
from sam2fast.kernels import _cpu
from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.perceiver import PerceiverLayer
from sam2fast.modeling.position_encoding import WindowRotations
from sam2fast.modeling.repvit import TokenMixer

EDGETAM, TI, TI_1, TI_2 = "edgetam/edgetam", *(f"efficienttam/efficienttam_ti{kind}" for kind in ("", "_1", "_2"))
SAM3, SMALL = "sam3/sam3", Path(__file__).parents[1] / "support" / "sam3_small.yaml"
FOLDER = Path(sam2fast.configs.__path__[0])
# Those of Hiera are in test_results.py.
ALL_NAMES = [
    str(path.relative_to(FOLDER).with_suffix(""))
    for path in sorted(FOLDER.rglob("*.yaml"))
    if "hiera" not in path.name and "trainer:" not in path.read_text() and "_training" not in str(path)
]


def build(name, size=256, overrides=()):
    """SAM 3's model has a small trunk, and another size by default."""
    config, size = (SMALL, 168 if size == 256 else size) if name == SAM3 else (f"configs/{name}.yaml", size)
    changes = [f"++model.image_size={size}", *overrides]
    return tame_weights.built(build_sam2, config, device="cpu", hydra_overrides_extra=changes)


@pytest.fixture(scope="module", params=[(EDGETAM, 256), (TI, 128), (SAM3, 140)], ids=[EDGETAM, TI, SAM3])
def untouched(request):
    return build(*request.param)


@pytest.fixture
def model(untouched):
    return copy.deepcopy(untouched)


@torch.no_grad()
def computed(model, part=None):
    """Features of an image, its map conditioned on two objects' memories, and their memories; or those of one part."""
    engine, size, m = engine_for(model), model.image_size, model.mem_dim
    side, tokens, pointers = model.sam_image_embedding_size, model.memory_size[0] * model.memory_size[1], 8
    features = random_map(1, model.hidden_dim, side, side).to(model.no_mem_embed.dtype)
    found = []
    if part in (None, "image"):
        found += engine.encode(random_map(1, 3, size, size))
    if part in (None, "attention"):
        memory = AttendedMemory(
            pages=random_map(3, tokens, m),
            page_table=torch.tensor([[0, 1, 2], [1, -1, -1]], dtype=torch.int32),
            page_time=torch.arange(3, dtype=torch.int32).expand(2, -1),
            position_encoding=random_map(tokens, m, seed=1),
            time_encoding=model.maskmem_tpos_enc[:, 0, 0],
            pointers=random_map(2, pointers, m, seed=2),
            pointer_encoding=random_map(2, pointers, m, seed=3),
            pointer_valid=torch.arange(pointers) < torch.tensor([[8], [4]]),
        )
        found.append(engine.attend(features, memory))
    if part in (None, "memory"):
        masks, scores = 5 * random_map(2, 1, 4 * side, 4 * side, seed=4), torch.tensor([[1.0], [-1.0]])
        found.append(engine.encode_memory(features, masks, scores, False))
    return found


def by_calls(model, part=None):
    with without_plans():
        return computed(model, part)


def assert_as_called(model, exact=None, part=None):
    """Plans compute what modules do, which is returned; in a low precision they are as near to what is exact."""
    assert parts_of(model) == ALL
    expected, found = by_calls(model, part), everywhere(computed)(model, part)
    if exact is None:
        assert_same(expected * 2, found)
    else:
        assert_as_near(exact * 2, expected * 2, found)
    return found[: len(expected)]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_all_models_have_plans(name):
    with tame_weights.NothingDrawn():
        model = build_sam2(SMALL if name == SAM3 else f"configs/{name}.yaml", device="cpu")
    assert parts_of(model) == ALL


@pytest.mark.parametrize(("name", "size"), [(EDGETAM, 512), (TI, 256), (SAM3, 168), (SAM3, 448)])
def test_results(name, size):
    """Windows stick out of these maps, but for SAM 3's of 168 pixels. 1024 positions are attended to in blocks."""
    assert_as_called(build(name, size))


def test_chunks(model, monkeypatch):
    monkeypatch.setattr(ops, "CHUNK", 2**12)
    assert_as_called(model)


def test_bfloat16_weights(model, monkeypatch):
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", True)
    exact = computed(model)
    assert_as_called(model.to(torch.bfloat16), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model, dtype, monkeypatch):
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", False)
    exact = computed(model)
    with torch.autocast("cpu", dtype):
        assert difference(exact, assert_as_called(model, exact)) > 1e-4
    assert difference(exact, computed(model)) == 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (EDGETAM, ("++model.image_encoder.scalp=0",)),
        (EDGETAM, ("++model.image_encoder.neck.fpn_top_down_levels=[0,1,2,3]",)),
        (EDGETAM, ("++model.spatial_perceiver.depth=1",)),
        (EDGETAM, ("++model.spatial_perceiver.heads=4", "++model.spatial_perceiver.dim_head=16")),
        (EDGETAM, ("++model.no_obj_embed_spatial=true",)),
        (TI, ("++model.image_encoder.neck.neck_norm=null",)),
        (TI, ("++model.image_encoder.trunk.window_size=8", "++model.image_encoder.trunk.window_block_indexes=[0,3]")),
        (TI, ("++model.image_encoder.trunk.depth=1", "++model.image_encoder.trunk.patch_size=16")),
        (SAM3, ("++model.image_encoder.neck.scale_factors=[4.0,2.0,1.0]",)),
        (SAM3, ("++model.image_encoder.trunk.norm_eps=0.1", "++model.image_encoder.trunk.rope_theta=100.0")),
    ],
)
def test_configurations(name, changes):
    part = "image" if "image_encoder" in changes[0] else "memory"
    assert_as_called(build(name, {EDGETAM: 256, TI: 128, SAM3: 140}[name], changes), part=part)


# ---- changes ----


TRUNK, NECK, PERCEIVER = "image_encoder.trunk", "image_encoder.neck", "spatial_perceiver"
LAYERS = {
    EDGETAM: {
        f"{TRUNK}.body.stem.conv2.c": "image",
        f"{TRUNK}.body.stages_1.downsample.pre_block.token_mixer.conv1.bn": "image",
        f"{TRUNK}.body.stages_2.blocks.3.channel_mixer.conv2.c": "image",
        f"{TRUNK}.body.stages_0.blocks.0.se.fc2": "image",
        "memory_attention.layers.1.cross_attn_image.k_proj": "attention",
        f"{PERCEIVER}.layers.0.attn.to_q": "memory",
        f"{PERCEIVER}.layers.1.self_ff.3": "memory",
        f"{PERCEIVER}.norm": "memory",
    },
    TI: {
        f"{TRUNK}.patch_embed.proj": "image",
        f"{TRUNK}.blocks.2.mlp.layers.0": "image",
        f"{NECK}.convs.0.norm_1": "image",
        "memory_attention.layers.1.cross_attn_image.k_proj": "attention",
    },
    SAM3: {
        f"{TRUNK}.patch_embed.proj": "image",
        f"{TRUNK}.ln_pre": "image",
        f"{TRUNK}.blocks.2.attn.qkv": "image",
        f"{NECK}.convs.0.dconv_2x2_0": "image",
        f"{NECK}.convs.1.conv_1x1": "image",
    },
}
CASES = [(name, path, part) for name, paths in LAYERS.items() for path, part in paths.items()]


def with_one_of(changes):
    """Each layer with the next change: what notices one looks at all modules alike, and at all tensors."""
    return [(*case, change) for case, change in zip(CASES, cycle(changes), strict=False)]


def part_of(name):
    return "memory" if name.startswith(PERCEIVER) else "attention" if "attention" in name else "image"


@pytest.fixture(scope="module")
def models():
    return {EDGETAM: build(EDGETAM), TI: build(TI, 128), TI_1: build(TI_1, 128), SAM3: build(SAM3, 140)}


@pytest.mark.parametrize(("name", "path", "part", "change"), with_one_of(CHANGES))
def test_a_change(models, name, path, part, change):
    """It takes effect, and the other parts stay."""
    model, (owner, _, attribute) = copy.deepcopy(models[name]), path.rpartition(".")
    given = model.get_submodule(owner), attribute, model.get_submodule(path)
    assert_takes_effect(partial(computed, part=part), model, lambda: CHANGES[change](*given), without(part))


@pytest.mark.parametrize(("cls", "part"), [(TokenMixer, "image"), (PerceiverLayer, "memory")])
def test_a_patched_class(models, cls, part, monkeypatch):
    model, forward = models[EDGETAM], cls.forward
    before = computed(model, part)
    with monkeypatch.context() as patch:
        wrong = lambda self, *args: forward(self, *args) * 1.5  # noqa: E731
        change = lambda: patch.setattr(cls, "forward", wrong)  # noqa: E731
        assert_takes_effect(partial(computed, part=part), model, change, without(part))
    assert parts_of(model) == ALL and difference(before, computed(model, part)) == 0


@pytest.mark.parametrize(("name", "path", "part", "change"), with_one_of(VALUES))
def test_changed_values(models, name, path, part, change):
    model = copy.deepcopy(models[name])
    assert_takes_effect(partial(computed, part=part), model, lambda: VALUES[change](model.get_submodule(path)))


TENSORS = [
    (EDGETAM, f"{TRUNK}.body.stages_3.blocks.1.token_mixer.conv.bn.running_var"),
    (EDGETAM, f"{TRUNK}.body.stages_1.downsample.channel_downsample.bn.running_mean"),
    (EDGETAM, f"{TRUNK}.body.stem.conv1.bn.bias"),
    (EDGETAM, f"{PERCEIVER}.latents"),
    (EDGETAM, f"{PERCEIVER}.latents_2d"),
    (TI, f"{TRUNK}.pos_embed"),
    (TI, f"{NECK}.convs.0.conv_1x1.weight"),
    (TI, f"{NECK}.convs.0.conv_3x3.weight"),
    (SAM3, f"{TRUNK}.pos_embed"),
    (SAM3, f"{NECK}.convs.1.dconv_2x2.bias"),
    (SAM3, f"{NECK}.convs.0.dconv_2x2_1.weight"),
    (SAM3, f"{NECK}.convs.0.conv_3x3.bias"),
    (SAM3, "sam_mask_decoder.conv_s1.weight"),
]


@pytest.mark.parametrize(("name", "tensor"), TENSORS)
def test_changed_tensors(models, name, tensor):
    model, (owner, _, attribute) = copy.deepcopy(models[name]), tensor.rpartition(".")
    values = getattr(model.get_submodule(owner), attribute)
    amounts = torch.linspace(0, 0.03, values.numel()).view_as(values)
    assert_takes_effect(partial(computed, part=part_of(tensor)), model, lambda: values.data.add_(amounts))


SETTINGS = [
    (EDGETAM, f"{TRUNK}.body.stages_0.blocks.1.channel_mixer.conv1.bn.eps", 0.5),
    (EDGETAM, f"{NECK}.fpn_top_down_levels", [0, 1, 2]),
    (EDGETAM, f"{PERCEIVER}.layers.0.attn.heads", 2),
    (EDGETAM, f"{PERCEIVER}.layers.1.self_ff.0.eps", 0.5),
    (EDGETAM, f"{PERCEIVER}.norm.eps", 0.5),
    (TI, f"{TRUNK}.blocks.3.window_size", 0),
    (TI, f"{TRUNK}.blocks.3.attn.num_heads", 1),
    (TI, f"{NECK}.convs.0.norm_0.eps", 0.5),
    (TI_1, "memory_attention.layers.0.cross_attn_image.pooling", "raised"),
    (SAM3, f"{TRUNK}.blocks.2.window_size", 0),
    (SAM3, f"{TRUNK}.blocks.1.attn.rotations", WindowRotations(16, 3, 10000.0)),
    (SAM3, f"{TRUNK}.ln_pre.eps", 0.5),
]


@pytest.mark.parametrize(("name", "setting", "value"), SETTINGS)
def test_changed_settings(models, name, setting, value):
    model = copy.deepcopy(models[name])
    change = partial(set_at, model, setting, value)
    assert_takes_effect(partial(computed, part=part_of(setting)), model, change, least=1e-5)


WITHOUT_A_PLAN = [
    (EDGETAM, f"{NECK}.fuse_type", "avg", "image"),
    (EDGETAM, f"{TRUNK}.body.stem.conv1.bn.weight", None, "image"),
    (EDGETAM, f"{TRUNK}.body.stem.conv1.c.bias", nn.Parameter(torch.ones(24)), "image"),
    (EDGETAM, f"{TRUNK}.body.stages_0.blocks.0.se.fc1.bias", None, "image"),
    (EDGETAM, f"{PERCEIVER}.layers.0.ff.2.approximate", "tanh", "memory"),
    (EDGETAM, f"{PERCEIVER}.layers.0.ff.3.bias", nn.Parameter(torch.ones(64)), "memory"),
    (TI, f"{TRUNK}.blocks.1.mlp.act.approximate", "tanh", "image"),
    (TI, f"{TRUNK}.patch_embed.proj.bias", None, "image"),
    (SAM3, f"{NECK}.convs.0.gelu.approximate", "tanh", "image"),
]


@pytest.mark.parametrize(("name", "setting", "value", "part"), WITHOUT_A_PLAN)
def test_settings_without_a_plan(models, name, setting, value, part):
    model, (owner, _, attribute) = copy.deepcopy(models[name]), setting.rpartition(".")
    setattr(model.get_submodule(owner), attribute, value)
    assert parts_of(model) == without(part)
    model.spatial_perceiver = nn.Identity()
    assert parts_of(model).memory is False


def test_training(model):
    """Of the perceiver's dropout alone, or of a norm that would keep statistics."""
    for module in [x for x in model.modules() if isinstance(x, PerceiverLayer | nn.BatchNorm2d)][::20]:
        module.train()
        assert parts_of(model) != ALL
        module.eval()
    assert parts_of(model) == ALL


@pytest.mark.parametrize(
    ("name", "owner", "moved", "parts"),
    [(EDGETAM, f"{TRUNK}.body", "stages_0", ALL), (TI, f"{NECK}.convs.0", "norm_0", without("image"))],
)
def test_another_order_of_modules(models, name, owner, moved, parts):
    """Stages are called by their names, and the layers of the neck in their order."""
    model = copy.deepcopy(models[name])
    before, layers = computed(model, "image"), model.get_submodule(owner)._modules
    layers[moved] = layers.pop(moved)
    after = computed(model, "image")
    assert parts_of(model) == parts and (difference(before, after) == 0) == (parts == ALL)
    assert difference(by_calls(model, "image"), after) < 1e-5


@torch.no_grad()
def test_kept_weights_are_no_views_of_parameters():
    """A refresh would write into these."""
    model = build(SAM3)
    found = _tensors(static_image._weights(engine_for(model)._image.look(model).plan, torch.device("cpu")))
    parameters = {x.data_ptr(): x for x in model.parameters()}
    assert all(parameters.get(x.data_ptr(), x) is x for x in found)
