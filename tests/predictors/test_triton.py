"""The video predictor with all Triton kernels; without a GPU in Triton's interpreter."""

import numpy as np
import pytest
import torch
from parity import NARROW, build_pair, random_map
from video import SMALL, Session, build_video_pair, clip, compare, jpeg_folder, run, run_official

pytest.importorskip("triton")
from sam2fast.deploy.compilation import compile_model
from sam2fast.engine import engine_for, static  # noqa: E402
from sam2fast.engine.plans.memory import plan_attention  # noqa: E402
from sam2fast.kernels import _launch  # noqa: E402
from sam2fast.kernels._dispatch import backend, launches  # noqa: E402
from sam2fast.kernels._launch import Row  # noqa: E402
from sam2fast.kernels.memory_attention import AttendedMemory  # noqa: E402
from sam2fast.kernels.memory_attention import kernel as memory_kernels  # noqa: E402
from sam2fast.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

FRAMES = 3


def trunk(stages: list[int], global_block: int) -> list[str]:
    """Overrides for fewer blocks with the same widths and windows; the third stage has the global one."""
    prefix = "++model.image_encoder.trunk"
    return [f"{prefix}.stages={stages}", f"{prefix}.global_att_blocks=[{global_block}]"]


# Shallow models with all kinds of blocks: per stage a pooled one, if any, one with windows, and the global one.
FAST = ("sam2.1_t",)  # of the others, each kind of block is among the cases of tests/kernels/test_window_kernel.py
SHALLOW = {size: trunk([1, 2, 3, 2], 5) for size in ("sam2.1_t", "sam2.1_s", "sam2.1_b+", "sam2.1_l")}


@pytest.fixture(scope="module")
def predictors():
    return build_video_pair(overrides=NARROW, image_size=SMALL)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(FRAMES))


@pytest.fixture
def large_blocks(monkeypatch, triton_device):
    """The interpreter's time depends on the number of programs: use few large ones."""
    if triton_device.type == "cpu":
        meta, attention = {"BLOCK_M": 256, "BLOCK_N": 256}, {"BLOCK_M": 64, "BLOCK_N": 256, "CHUNK": 256}
        table = dict(_launch.custom_rows())
        table["window_attention"] = [Row("*", "*", "*", meta, {"num_warps": 8})]
        table["memory_attention"] = [Row("*", "*", "*", attention, {"num_warps": 8})]
        tiles = {"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 256, "GROUP": 8}
        table["linear_gelu"] = [Row("*", "*", "*", tiles, {"num_warps": 8})]
        table["layer_norm"] = [Row("*", "*", "*", {"ELEMENTS": 2**16}, {"num_warps": 8})]
        table["depthwise_norm"] = [Row("*", "*", "*", {"ELEMENTS": 2**16}, {"num_warps": 8})]
        masks = {"BLOCK_Y": 64, "BLOCK_X": 64, "BLOCK_M": 256, "BLOCK_K": 64}
        table["mask_downsampler"] = [Row("*", "*", "*", masks, {"num_warps": 8})]
        table["preprocess"] = [Row("*", "*", "*", {"BLOCK": 2**15}, {"num_warps": 8})]
        monkeypatch.setattr(_launch, "custom_rows", lambda: table)
        for around in (memory_kernels.ROTATE, memory_kernels.ENCODE, memory_kernels.COMBINE):
            monkeypatch.setitem(around, "BLOCK", 64)


@pytest.fixture
def forced(monkeypatch, triton_device, large_blocks):
    monkeypatch.setenv("SAM2FAST_BACKEND", "triton")
    return triton_device


def two_objects(s: Session) -> None:
    """The memory fills, one object comes later, one is corrected, then backwards."""
    s.points(0, 1, (60, 40, 1))
    s.points(1, 2, box=[20, 20, 70, 60])
    s.propagate()
    s.points(2, 1, (65, 45, 0))
    s.propagate(start_frame_idx=2, max_frame_num_to_track=1, reverse=True)


@pytest.mark.slow
def test_tracking(predictors, video, forced):
    official, ours = predictors
    expected = run_official(official, video, two_objects)
    before = dict(launches)
    compare(expected, run(ours.to(forced), video, two_objects))
    counts = {op: launches[op] - before.get(op, 0) for op in launches}
    # Objects share launches. The first pass has three frames, on each of which an object attends to its
    # memories (on the first one that is the second object, prompted later); then the correction; then two frames.
    layers = len(ours.memory_attention.layers)
    assert counts["memory_attention"] == counts["rope_attention"] == layers * (FRAMES + 1 + 2)
    assert counts["fill_holes_in_mask_scores"] > 0 and counts["downsample_logits"] > 0
    steps, blocks = (
        len(x) for x in (ours.memory_encoder.mask_downsampler.encoder[1::3], ours.memory_encoder.fuser.layers)
    )
    assert counts["downsample_map"] == (steps - 1) * counts["downsample_logits"]
    assert counts["depthwise_norm"] == blocks * counts["downsample_logits"]
    assert counts["window_attention"] >= FRAMES * len(ours.image_encoder.trunk.blocks)
    ours.to("cpu")


@pytest.mark.parametrize("size", ["sam2.1_t", pytest.param("sam2.1_b+", marks=pytest.mark.slow)])
def test_images(size, triton_device, large_blocks):
    """All kinds of windows of these models, padded ones too, with kernels and with their reference implementations."""
    model = build_pair(size, [f"++model.image_size={2 * SMALL}", *SHALLOW.get(size, [])])[1].to(triton_device)
    predictor, answers = SAM2ImagePredictor(model), []
    before = dict(launches)
    for name in ("torch", "triton"):
        with backend(name):
            predictor.set_image(clip(1)[0])
            answers.append(predictor.predict(np.array([[60, 40]]), np.array([1]), return_logits=True))
    for expected, actual in zip(*answers, strict=True):
        assert relative_error(torch.from_numpy(expected), torch.from_numpy(actual)) < 1e-4
    blocks = len(model.image_encoder.trunk.blocks)
    counts = {op: launches[op] - before.get(op, 0) for op in launches}
    # The decoder normalises too.
    assert counts["window_attention"] == counts["linear_gelu"] == blocks < 2 * blocks < counts["layer_norm"]
    assert counts["preprocess"] == 1


def memory_of(filled: int, slots: int, pointers: int) -> AttendedMemory:
    """One object with so many pages and four pointer tokens for each."""
    pages = random_map(slots, 64, 64)
    table = torch.arange(slots, dtype=torch.int32)
    return AttendedMemory(
        pages=pages,
        page_table=torch.where(table < filled, table, -1)[None],
        page_time=(table % 7)[None],
        position_encoding=random_map(64, 64, seed=1),
        time_encoding=random_map(7, 64, seed=2),
        pointers=random_map(1, pointers, 64, seed=3),
        pointer_encoding=random_map(1, pointers, 64, seed=4),
        pointer_valid=(torch.arange(pointers) < 4 * filled)[None],
    )


@pytest.mark.parametrize("name", ["torch", "triton"])
@torch.no_grad()
def test_a_compiled_memory_attention_does_not_compile_again(predictors, name, monkeypatch, triton_device, large_blocks):
    """While memories accumulate, one graph serves all frames."""
    monkeypatch.setenv("SAM2FAST_BACKEND", name)
    attention = predictors[1].memory_attention.to(triton_device)
    features, position = (random_map(1, 256, 8, 8, seed=i).to(triton_device) for i in (5, 6))
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plan = plan_attention(predictors[1])
    layers = static.memory._layers(plan, features.device)
    rotations = plan.rotations(8 * 8, 64, features.device)

    def attend(memory):
        return static.memory._attend_all(plan, layers, rotations, features, position, memory, False, None)

    compiled = torch.compile(attend, backend=counter, fullgraph=True)
    before = launches["memory_attention"]
    for filled in (1, 2, 5, 7):
        memory = AttendedMemory(*(x.to(triton_device) for x in memory_of(filled, 7, 64)[:8]))
        torch.testing.assert_close(compiled(memory), attend(memory), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1
    calls = 2 * 4 * len(attention.layers)  # compiled and not, with as much memory as there are cases
    assert launches["memory_attention"] - before == (calls if name == "triton" else 0)
    predictors[1].to("cpu")


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        *(pytest.param(*item, marks=() if item[0] in FAST else pytest.mark.slow) for item in SHALLOW.items()),
        *(pytest.param(size, [], marks=pytest.mark.slow) for size in SHALLOW),
    ],
    ids=lambda value: value if isinstance(value, str) else "shallow" if value else "whole",
)
@torch.no_grad()
def test_a_compiled_encoder_is_one_graph_with_the_kernel_in_it(size, overrides, triton_device, large_blocks):
    model = build_pair(size, ["++model.image_size=64", *overrides])[1].to(triton_device)
    image, graphs = random_map(1, 3, 64, 64).to(triton_device), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    expected = model.encode_image(image)
    compile_model(model, ["image_encoder"], backend=keep)
    with backend("triton"):
        actual = engine_for(model).encode(image)
    for e, a in zip(expected, actual, strict=True):
        assert relative_error(e, a) < 1e-4
    (graph,) = graphs
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    pooled = calls.count(torch.ops.sam2fast.pooled_window_attention.default)
    assert pooled == sum(block.q_stride is not None for block in model.image_encoder.trunk.blocks) > 0
    assert calls.count(torch.ops.sam2fast.window_attention.default) + pooled == len(model.image_encoder.trunk.blocks)
