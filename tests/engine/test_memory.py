"""What a video takes besides images: plans compute what the modules do."""

import pytest
import tame_weights
import torch
from mini_model import mini_model
from parity import NARROW, random_map
from planned import ALL, assert_same, away_from_the_cpu, difference, everywhere, parts_of, without_plans
from planned_memory import by_modules, memories, tracked

from sam2fast import mini
from sam2fast.build_sam import build_sam2
from sam2fast.engine import engine_for
from sam2fast.engine.cpu import ops
from sam2fast.kernels import _cpu

ATTENTION, ENCODER = "++model.memory_attention", "++model.memory_encoder"
IS_EMULATED = _cpu.EMULATES_BFLOAT16  # on this processor
CONFIGURATIONS = {
    "nano, narrow": (),
    "an odd map": ("++model.image_size=160",),
    "several layers": (f"{ATTENTION}.num_layers=3", f"{ENCODER}.fuser.num_layers=2"),
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
    "SAM 2": ("configs/sam2/sam2_hiera_t.yaml", 128, NARROW),
    "SAM 2.1": ("configs/sam2.1/sam2.1_hiera_b+.yaml", 128, NARROW),
    "MedSAM2": ("configs/medsam2/sam2.1_hiera_t512.yaml", 128, NARROW),
    "mini": (mini.CONFIG, 128, ()),
    "EdgeTAM": ("edgetam", 256, ()),
    "EfficientTAM": ("efficienttam_ti", 128, ()),
    "EfficientTAM, pooled memories": ("efficienttam_ti_1", 128, ()),
    "EfficientTAM, memories pooled in another way": ("efficienttam_ti_2", 128, ()),
}


def assert_as_by_modules(model, *args, **kwargs):
    assert parts_of(model) == ALL
    assert_same(by_modules(model, *args, **kwargs) * 2, everywhere(tracked)(model, *args, **kwargs))


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configurations(changes):
    model = mini_model(changes)
    for from_prompt in (True,) if changes else (False, True):
        assert_as_by_modules(model, multimask=from_prompt, from_prompt=from_prompt)


@pytest.mark.parametrize("name", PUBLISHED)
def test_models(name):
    config, size, changes = PUBLISHED[name]
    overrides = [f"++model.image_size={size}", *changes]
    model = tame_weights.built(build_sam2, config, device="cpu", hydra_overrides_extra=overrides)
    assert_as_by_modules(model, from_prompt=True)


@pytest.mark.parametrize(
    ("pages", "pointers"),
    [
        ([[0]], [1]),
        ([[-1], [2]], [3, 0]),
        ([[0, 1, 2, 3, 0, 1, 2]] * 5, [4] * 5),
        ([[3, -1, 0], [-1, -1, -1], [1, 2, 3]], [0, 1, 4]),
    ],
    ids=["one", "pointers alone", "many", "different"],
)
def test_memories(model, pages, pointers):
    assert_as_by_modules(model, memories(model, pages, pointers))


def assert_same_away_from_the_cpu(model, *args, **kwargs):
    assert parts_of(model) == ALL
    expected = tracked(model, *args, **kwargs)
    with away_from_the_cpu():
        assert_same(expected, tracked(model, *args, **kwargs))


def test_nothing_to_attend_to(model):
    """Modules cannot."""
    assert_same_away_from_the_cpu(model, memories(model, [[-1], [0]], [0, 1]))


@pytest.mark.parametrize(("size", "chunk"), [(128, 2**10), (512, 2**14)])
def test_chunks(size, chunk, monkeypatch):
    """1024 positions are attended to in blocks."""
    monkeypatch.setattr(ops, "CHUNK", chunk)
    assert_as_by_modules(mini_model([f"++model.image_size={size}"]))


def test_emulated_fp8_and_factors(model):
    memory = memories(model)
    slots = memory.page_table.shape[1] + memory.pointers.shape[1]
    memory = memory._replace(key_factors=0.5 + random_map(2, slots).sigmoid())
    assert_as_by_modules(model, memory)
    assert_same_away_from_the_cpu(model, memory, fp8="emulated")


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("points", [0, 1, 3])
def test_prompts(model, points, prompt):
    """Of one object; masks of another size than the decoder's."""
    coords = {"point_coords": torch.rand(1, points, 2) * 128, "point_labels": torch.ones(1, points, dtype=torch.int32)}
    mask = 5 * random_map(1, 1, 128, 128) if prompt else None
    assert_as_by_modules(model, memories(model, [[0]], [2]), coords if points else None, mask, True)


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
    high_res = [random_map(1, 16, 32, 32), random_map(1, 32, 16, 16)]
    lower, upper = engine.track(maps, high_res, None, None, True).score.flatten().sort().values[:2].tolist()
    middle = (lower + upper) / 2
    found = engine.track(maps, high_res, None, None, True, middle, Best(parents))
    given = lambda: [*engine.track(maps, high_res, None, None, True, middle, Best(parents))]  # noqa: E731
    with without_plans():
        expected = given()
    assert difference(expected * 2, everywhere(given)()) <= 1e-5 and found.choice.eq(1).all()
    assert (found.mask == -1024).flatten(1).all(dim=1).sum() in (1, 2, 3)


@pytest.mark.parametrize("pooling", ["counted", "raised"])
def test_pooled_memories(model, pooling):
    """Means of tokens where there are memories of several frames."""
    memory = memories(model, [[0, 1, 2], [1, -1, -1]], [4, 1])
    before = tracked(model, memory)
    model.memory_attention.layers[0].cross_attn_image.pooling = pooling
    assert_same_away_from_the_cpu(model, memory)
    changed = [difference([x], [y]) > 1e-4 for x, y in zip(before[0], tracked(model, memory)[0], strict=True)]
    assert changed == [True, False]


def assert_close_in_bfloat16(exact, expected, found, emulates):
    """Asserts that a plan's results are about as close to fp32 as the modules' results.

    If torch emulates bfloat16, but the plan is for processors with bfloat16 instructions, sums are rounded differently,
    and a result may differ by one step.
    """
    slack = torch.finfo(torch.bfloat16).eps if IS_EMULATED and not emulates else 1e-3
    for x, y, z in zip(exact, expected, found, strict=True):
        rounding = difference([x], [y])
        assert difference([y], [z]) <= max(rounding, 2e-2) and difference([x], [z]) <= 1.5 * rounding + slack


@pytest.mark.parametrize("emulates", [True, False])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_autocast(model, weights, emulates, monkeypatch):
    """Plans compute in its dtype what modules do, at most as far from fp32."""
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", emulates)
    exact = tracked(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert parts_of(model) == ALL
        expected, found = by_modules(model.to(weights)), tracked(model)
        assert torch.is_autocast_enabled("cpu")
    assert [x.dtype for x in expected] == [x.dtype for x in found]
    assert_close_in_bfloat16(exact, expected, found, emulates)
    assert difference(exact, found) > 1e-3
    assert (difference(exact, tracked(model)) == 0) == (weights == torch.float32)


def test_weights_made_in_inference_mode():
    """They have no version counters."""
    with torch.inference_mode():
        model = mini_model()
        before = tracked(model)
        model.memory_attention.layers[0].self_attn.v_proj.weight.mul_(1.5)
        assert difference(before, tracked(model)) > 1e-4
    assert_as_by_modules(model)


@pytest.mark.parametrize("emulates", [True, False])
def test_bfloat16_weights(model, emulates, monkeypatch):
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", emulates)
    exact = tracked(model)
    expected, found = (compute(model.to(torch.bfloat16)) for compute in (by_modules, tracked))
    assert parts_of(model) == ALL
    assert [x.dtype for x in expected] == [x.dtype for x in found]
    assert_close_in_bfloat16(exact, expected, found, emulates)
