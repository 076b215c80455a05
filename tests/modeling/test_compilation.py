"""Compiled parts: the same results, one graph for each shape; copies and sessions work."""

import copy
import logging
import pickle
from collections import Counter

import pytest
import torch
from compiled_forms import WAYS, compile_module, graphs, inputs_of, use_aot_eager
from compiled_forms import tensors_in as flat
from mini_model import mini_model, mini_predictor
from parity import random_image, random_map
from small_sam3 import small_sam3
from torch import nn
from video import Session, clip, compare, jpeg_folder

from sam2fast.deploy.compilation import PARTS, compile_model, uncompile
from sam2fast.modeling import compiled
from sam2fast.modeling.compiled import CompiledFunction, CompiledMethod, compile_method
from sam2fast.modeling.image_encoder import ImageEncoder
from sam2fast.modeling.position_encoding import PositionEmbeddingSine
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

MODULES = ("image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder")


def signature(*arguments):
    """The key of a graph."""
    leaves = torch.utils._pytree.tree_leaves(arguments)
    return tuple((x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else str(x) for x in leaves)


@pytest.fixture
def calls(monkeypatch):
    """Every call of a compiled part is compared with the part itself; shapes, and graphs made, by part."""
    seen: dict[str, Counter] = {}
    call = CompiledFunction.__call__

    def compared(self, *args, **kwargs):
        before = graphs()
        results = call(self, *args, **kwargs)
        part = seen.setdefault(self._name, Counter())
        part["graphs"] += graphs() - before
        part[signature(args, kwargs)] += 1
        for expected, actual in zip(flat(self._eager(*args, **kwargs)), flat(results), strict=True):
            assert actual.dtype == expected.dtype
            assert relative_error(expected, actual) <= 1e-5
        return results

    monkeypatch.setattr(CompiledFunction, "__call__", compared)
    return seen


@pytest.fixture(scope="module")
def both():
    """Returns a video predictor, and its compiled copy."""
    return mini_predictor(), compile_model(mini_predictor(), backend="aot_eager")


def one_two_one(session: Session) -> None:
    """One object, then two, then one again."""
    session.points(0, 1, (60, 40, 1))
    session.propagate(start_frame_idx=0, max_frame_num_to_track=1)
    session.points(2, 2, (30, 60, 1))
    session.propagate(start_frame_idx=2, max_frame_num_to_track=1)
    session.remove(2)
    session.propagate(start_frame_idx=4)


def test_a_video_with_one_two_one_objects(both, calls, tmp_path):
    video = jpeg_folder(tmp_path / "video", clip(5))
    plain, again = (Session(predictor, video) for predictor in both)
    for session in (plain, again):
        one_two_one(session)
    compare(plain.records, again.records)
    assert set(calls) == {
        "ImageEncoder.forward",
        "MemoryAttention.forward",
        "MaskDecoder.forward",
        "MemoryEncoder.forward",
    }
    for part, seen in calls.items():
        assert 1 <= seen["graphs"] <= len(seen) - 1, f"{part} is compiled more than once for a shape"
    calls.clear()
    one_two_one(Session(both[1], video))
    assert {part: seen["graphs"] for part, seen in calls.items()} == dict.fromkeys(calls, 0)


def test_images(both, calls):
    predictors = [SAM2ImagePredictor(model) for model in both]
    for seed in (0, 1):
        calls.clear()
        answers = []
        for predictor in predictors:
            predictor.set_image(random_image(60, 80, seed))
            answers.append(predictor.predict([[30, 40]], [1], return_logits=True))
        for expected, actual in zip(*answers, strict=True):
            assert relative_error(expected, actual) <= 1e-4
        assert set(calls) == {"ImageEncoder.forward", "MaskDecoder.forward"}
    assert {part: seen["graphs"] for part, seen in calls.items()} == dict.fromkeys(calls, 0)


@pytest.mark.slow
@torch.no_grad()
def test_native_code():
    """The compiler's own, of the part with the least to compile."""
    model = mini_model()
    inputs = random_map(1, 128, 8, 8), random_map(1, 1, 128, 128)
    expected = flat(model.memory_encoder(*inputs))
    compile_model(model, ["memory_encoder"])
    for a, b in zip(expected, flat(model.memory_encoder(*inputs)), strict=True):
        assert relative_error(a, b) <= 1e-5


def test_parts_are_chosen_by_name():
    model = mini_model()
    with pytest.raises(ValueError, match="'decoder'.*image_encoder, memory_attention, mask_decoder, memory_encoder"):
        compile_model(model, ["image_encoder", "decoder"])
    with pytest.raises(TypeError, match="a SAM2ImagePredictor cannot be compiled; .* pass predictor.model"):
        compile_model(SAM2ImagePredictor(model))
    assert compiled_methods(model) == []
    assert compile_model(model, {"mask_decoder"}, backend="eager") is model
    assert compiled_methods(model) == ["sam_mask_decoder.forward"]
    compile_model(model, "memory_encoder", backend="eager")
    assert compiled_methods(model) == ["memory_encoder.forward", "sam_mask_decoder.forward"]
    compile_model(model, PARTS, backend="eager")
    assert compiled_methods(model) == [f"{module}.forward" for module in MODULES]
    keys = list(model.state_dict())
    assert uncompile(model) is model and compiled_methods(model) == [] and list(model.state_dict()) == keys


def test_the_configuration_compiles_the_encoder():
    model = mini_model(["++model.compile_image_encoder=true"])
    assert compiled_methods(model) == ["image_encoder.forward"]
    assert model.image_encoder.forward._args[2] == "max-autotune"
    assert compiled_methods(uncompile(model)) == []


def compiled_methods(model):
    return sorted(
        f"{name}.{method}"
        for name, module in model.named_modules()
        for method, value in vars(module).items()
        if isinstance(value, CompiledMethod)
    )


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_compute_with_their_own_weights(copied):
    first, x = Scale(), torch.ones(3)
    compile_method(first, "forward", backend="eager")
    second = copied(first)
    with torch.no_grad():
        second.factor.fill_(5.0)
    assert isinstance(vars(second)["forward"], CompiledMethod)
    assert first(x).tolist() == [2.0] * 3 and second(x).tolist() == [5.0] * 3


def test_more_shapes_than_are_compiled_run_uncompiled(monkeypatch, caplog):
    monkeypatch.setattr(compiled, "SHAPES", 2)
    module = Scale()
    compile_method(module, "forward", backend="eager")
    with caplog.at_level(logging.WARNING, "sam2fast"), torch.no_grad():
        for _ in range(2):
            for n in range(2, 7):
                assert module(torch.ones(n)).tolist() == [2.0] * n
    assert notes(caplog) == ["Scale.forward was called with too many shapes to compile; new shapes run eagerly"]


def notes(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("sam2fast")]


@pytest.mark.parametrize(("limit", "shapes", "models"), [(compiled.SHAPES, 20, 1), (2, 2, 4)])
def test_each_model_has_its_own_limit_of_shapes(limit, shapes, models, monkeypatch, caplog):
    """By default more than torch allows by itself."""
    monkeypatch.setattr(compiled, "SHAPES", limit)
    for _ in range(models):
        module, graphs = Scale(), []
        compile_method(module, "forward", backend=lambda graph, _, graphs=graphs: graphs.append(graph) or graph.forward)
        with torch.no_grad():
            for n in range(2, 2 + shapes):
                module(torch.ones(n))
        assert len(graphs) == shapes
    assert not notes(caplog)


@pytest.mark.parametrize("build", [small_sam3, mini_model])
@torch.no_grad()
def test_the_encoder_of_a_configuration_is_compiled_once(build, monkeypatch):
    """Tests that the graph reads the tables of positions, although its first call computes the tables."""
    use_aot_eager(monkeypatch)
    encoder = build(overrides=["++model.compile_image_encoder=true"]).image_encoder
    images = random_map(1, 3, 128, 128)
    first, second = flat(encoder(images)), flat(encoder(images))
    assert graphs() == 1
    for a, b, c in zip(first, second, flat(ImageEncoder.forward(encoder, images)), strict=True):
        assert torch.equal(a, b) and relative_error(c, a) <= 1e-5


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_an_encoder_that_a_user_compiles_has_one_graph_per_size(way):
    model, plain = mini_model(), mini_model()
    compile_module(model, "image_encoder", way, fullgraph=True)
    for side in (128, 192, 128) if way == "wrapped" else (128, 128):
        images = random_map(1, 3, side, side)
        for a, b in zip(flat(model.image_encoder(images)), flat(plain.image_encoder(images)), strict=True):
            assert relative_error(b, a) <= 1e-5
    assert graphs() == (2 if way == "wrapped" else 1)


@torch.no_grad()
def test_a_decoder_that_a_user_compiles_has_one_graph():
    model, plain = mini_model(), mini_model()
    compile_module(model, "sam_mask_decoder", "compile", fullgraph=True)
    for _ in range(2):
        args, kwargs = inputs_of(plain, "mask_decoder")
        results = flat(model.sam_mask_decoder(*args, **kwargs)), flat(plain.sam_mask_decoder(*args, **kwargs))
        assert all(relative_error(b, a) <= 1e-5 for a, b in zip(*results, strict=True))
    assert graphs() == 1


@torch.no_grad()
def test_a_block_with_rotations_has_one_graph():
    """Compiles a block of SAM 3 with windows."""
    model, plain = small_sam3(), small_sam3()
    compile_module(model.image_encoder.trunk, "blocks.0", "forward", fullgraph=True)
    x = random_map(1, 12, 12, plain.image_encoder.trunk.blocks[0].dim)
    for _ in range(2):
        outputs = (m.image_encoder.trunk.blocks[0](x) for m in (plain, model))
        assert relative_error(*outputs) <= 1e-5
    assert graphs() == 1


def test_tables_of_positions_take_dynamic_sizes():
    encoding, plain = PositionEmbeddingSine(32), PositionEmbeddingSine(32)
    compile_module(nn.ModuleDict({"encoding": encoding}), "encoding", "compile", fullgraph=True, dynamic=True)
    for side in (8, 12, 8):
        assert torch.equal(encoding(torch.ones(1, 4, side, side)), plain(torch.ones(1, 4, side, side)))
    assert graphs() == 2


def test_graphs_read_a_replaced_encoding():
    encoding, replaced = PositionEmbeddingSine(32), random_map(32, 8, 8)
    encoding.cache[8, 8] = replaced
    compile_module(nn.ModuleDict({"encoding": encoding}), "encoding", "compile", fullgraph=True)
    for side in (8, 12):
        expected = replaced if side == 8 else PositionEmbeddingSine(32)(torch.ones(1, 4, side, side))[0]
        assert torch.equal(encoding(torch.ones(1, 4, side, side))[0], expected)


@pytest.mark.parametrize("build", [small_sam3, mini_model])
@torch.no_grad()
def test_an_encoder_that_a_user_compiles_takes_other_sizes(build):
    model, plain = build(), build()
    compile_module(model, "image_encoder", "compile", fullgraph=True)
    for side in (128, 192, 128):
        images = random_map(1, 3, side, side)
        for a, b in zip(flat(model.image_encoder(images)), flat(plain.image_encoder(images)), strict=True):
            assert relative_error(b, a) <= 1e-5
    assert graphs() == 2


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_it_is_inlined_in_an_outer_compilation(mode):
    module, graphs = Scale(), []
    compile_method(module, "forward", mode)

    def twice(x):
        return module(module(x))

    outer = torch.compile(twice, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    assert outer(torch.ones(2)).tolist() == [4.0, 4.0] and len(graphs) == 1


@pytest.mark.parametrize("mode, expected", [("reduce-overhead", ["begin", "call"]), (None, ["call"])])
def test_results_are_copied_out_of_cuda_graphs(mode, expected, monkeypatch):
    """Each call begins a step, after which earlier results may be overwritten; so they are copied out."""
    events = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: events.append("begin"))
    monkeypatch.setattr(torch, "compile", lambda f, **_: lambda *args: events.append("call") or [f(*args)])
    monkeypatch.setattr(compiled, "_out_of_graph", lambda x: x + 1)
    module = Scale()
    compile_method(module, "forward", mode=mode)
    (out,) = module(torch.ones(1))
    assert events == expected and out.item() == (3.0 if mode else 2.0)
