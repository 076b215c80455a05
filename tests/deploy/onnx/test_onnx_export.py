"""Exported graphs in onnxruntime: beside the official predictors, at any sizes, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

import numpy as np
import onnx
import onnxruntime
import PIL
import tame_weights
import torch
from onnx_graphs import PROMPTS, compare_images, model_of_modules, several_objects
from parity import random_map
from shallow_repvit import shallow_repvit  # noqa: F401
from strategy_recordings import NANO_LAYERS
from video import build_video_pair, clip, compare, jpeg_folder, run, run_official

import sam2fast
from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import read_checkpoint
from sam2fast.demo.rolling_ball import draw_rolling_ball
from sam2fast.deploy.onnx import export
from sam2fast.deploy.onnx.graph_modules import MemoryEncoderGraph
from sam2fast.deploy.onnx.runtime.graphs import load_model
from sam2fast.deploy.onnx.runtime.manifest import GRAPHS, MANIFEST, OnnxModelError, read_manifest
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor
from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.modeling.compiled import compile_method, restore_methods
from sam2fast.utils.testing import mask_iou, relative_error

BOXES = [[20, 20, 70, 60], [50, 30, 100, 80]]


@pytest.fixture(scope="module")
def pair():
    """Returns nano's official modules and ours."""
    pair = build_video_pair("sam2.1_t", NANO_LAYERS)
    weights = {name: tensor.float() for name, tensor in read_checkpoint(nano.WEIGHTS).items()}
    for model in pair:
        model.load_state_dict(weights)
    return pair


@pytest.fixture(scope="module")
def model(nano_graphs):
    return load_model(nano_graphs)


@pytest.mark.slow
def test_attention_to_means(tmp_path):
    """With one memory and with two: EfficientTAM's attends to tokens of the one, and to means of the two."""
    given = {"device": "cpu", "hydra_overrides_extra": ["++model.image_size=256"]}
    graph = export.graphs_of(build_sam2_video_predictor("efficienttam_ti_2", **given))[2]
    export.export_graph(graph, tmp_path / "attention.onnx")
    export.check_graph(graph, tmp_path / "attention.onnx")


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_images(pair, model, prompt):
    compare_images(pair[0], model, prompt)


def test_videos(pair, model, video):
    expected = run_official(pair[0], video, several_objects, check_itself=False)
    compare(expected, run(OnnxVideoPredictor(model), video, several_objects))


@pytest.mark.parametrize(("objects", "memories", "pointers"), [(1, 1, 0), (2, 1, 1), (16, 2, 3), (1, 7, 16)])
def test_any_number_of_objects_memories_and_pointers(pair, model, objects, memories, pointers):
    graphs = {graph.name: graph for graph in export.graphs_of(pair[1])}
    modules = model_of_modules(pair[1])
    sizes = export.AxisSizes(objects, memories, pointers, points=pointers)
    for name in GRAPHS:
        inputs = dict(zip(graphs[name].inputs, export.random_inputs(graphs[name], sizes), strict=True))
        arrays = {key: x.numpy() for key, x in inputs.items()}
        for expected, actual in zip(modules._run(name, arrays), model._run(name, arrays), strict=True):
            assert relative_error(expected, actual) <= 1e-4


def test_a_compiled_memory_encoder_runs_uncompiled(pair):
    encoder, size = pair[1].memory_encoder, pair[1].sam_image_embedding_size
    graph = MemoryEncoderGraph(pair[1])
    features, masks = torch.rand(1, pair[1].hidden_dim, size, size), torch.rand(2, 1, 4 * size, 4 * size)
    inputs = features, masks, torch.ones(2, 1), torch.ones(2)
    expected = graph(*inputs)
    compile_method(encoder, "forward", backend=pytest.fail)
    try:
        assert torch.equal(graph(*inputs), expected)
    finally:
        restore_methods(encoder)


def test_a_graph_that_differs_is_seen(pair, tmp_path):
    """Exports the memory encoder, and compares the graph with its module at other sizes than the traced sizes."""
    graph, file = export.graphs_of(pair[1])[-1], tmp_path / "memory_encoder.onnx"
    export.export_graph(graph, file)
    export.check_graph(graph, file)
    wrong = graph._replace(inputs={**graph.inputs, "scores": (3, 1)})
    with pytest.raises(RuntimeError, match="the exporter changed the inputs of memory_encoder"):
        export.check_graph(wrong, file)
    with torch.no_grad():
        graph.module.scale += 0.1
    with pytest.raises(RuntimeError, match="memory of memory_encoder differs from the model by"):
        export.check_graph(graph, file)


def test_no_path_of_this_machine(nano_graphs):
    assert not [
        path.name for path in nano_graphs.iterdir() if str(Path(sam2fast.__file__).parent).encode() in path.read_bytes()
    ]


def test_axes_have_names_and_nothing_branches(nano_graphs):
    content = json.loads((nano_graphs / MANIFEST).read_text())
    assert content["opset"] == 20 and set(content["versions"]) == {"sam2fast", *export.TOOLS}
    axes = set()
    for name in GRAPHS:
        graph = onnx.load(nano_graphs / f"{name}.onnx").graph
        axes |= {axis.dim_param for node in graph.input for axis in node.type.tensor_type.shape.dim} - {""}
        assert not {node.op_type for node in graph.node} & {"If", "Loop", "Scan"}
    assert axes == {"objects", "memories", "pointers", "points"}


def test_a_frozen_axis_is_refused(pair, tmp_path, monkeypatch):
    def freeze(self, features, masks, scores, from_prompt):
        return self.frozen(features, masks, scores.reshape(-1, 1), from_prompt)[: int(len(masks))]

    graph = export.graphs_of(pair[1])[-1]
    kind = type(graph.module)
    monkeypatch.setattr(kind, "frozen", kind.forward, raising=False)
    monkeypatch.setattr(kind, "forward", freeze)
    monkeypatch.setattr(export, "graphs_of", lambda model: [graph])
    with pytest.raises(Exception, match="objects|specialized"):
        export.write_onnx(pair[1], tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
@pytest.mark.usefixtures("copied_graphs")
def test_smaller_weights(pair, dtype, tmp_path):
    """Compares masks of a video with fp32's. docs/export.md has measured IoUs of photographs."""
    ball = draw_rolling_ball(12)
    frames, boxes = [np.asarray(x) for x in ball.frames], masks_to_boxes(torch.as_tensor(ball.masks)[0, :2])
    ours = pair[1]
    manifest = export.write_onnx(ours, tmp_path / dtype, dtype=dtype)
    plain = model_of_modules(ours)
    models = plain, load_model(tmp_path / dtype)
    expected, actual = (track_two(OnnxVideoPredictor(m), frames, boxes.tolist()) for m in models)
    size = sum(file["size"] for name, file in manifest.files.items())
    assert manifest.dtype == dtype and size < 0.8 * 4 * sum(x.numel() for x in ours.parameters())
    ious = [mask_iou(a[i], b[i]) for a, b in zip(expected, actual, strict=True) for i in range(2)]
    print(f"{dtype}: {size / 1e6:.1f} MB, IoU to fp32: mean {np.mean(ious):.4f}, worst {min(ious):.4f}")
    assert min(ious) > 0.99
    assert manifest.agreement == read_manifest(tmp_path / dtype).agreement
    assert manifest.agreement["mean"] > 0.99 and manifest.agreement["worst"] > 0.95


@pytest.mark.parametrize(("dtype", "choice"), [("float16", "float32"), ("int8", "float16 or float32")])
@pytest.mark.usefixtures("copied_graphs")
def test_masks_that_differ_are_refused(pair, dtype, choice, tmp_path, monkeypatch):
    def damage(file, dtype):
        model = onnx.load(file)
        for x in model.graph.initializer:
            if file.stem == "encoder" and len(x.dims) == 2:
                weight = onnx.numpy_helper.to_array(x)
                step = np.abs(weight).max() / 7  # weights of four bits
                x.CopyFrom(onnx.numpy_helper.from_array(np.round(weight / step) * step, x.name))
        onnx.save(model, file)

    monkeypatch.setattr(export, "converted", damage)
    expected = rf"masks of {dtype} and float32 have a mean IoU of 0\.\d+, worst .*: choose dtype {choice}$"
    with pytest.raises(RuntimeError, match=expected):
        export.write_onnx(pair[1], tmp_path / "out", dtype=dtype)
    assert not list(tmp_path.iterdir())


def track_two(predictor, video, boxes, **init):
    """Masks ``(2, 1, H, W)`` of each frame."""
    state = predictor.init_state(video, **init)
    for i, box in enumerate(boxes):
        predictor.add_new_points_or_box(state, 0, i, box=box)
    return [masks > 0 for _, _, masks in predictor.propagate_in_video(state)]


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [("image_size", 512, 256), ("image_size", None, 256), ("mean", [1.0], 3), ("no_obj_ptr", [], 128)],
)
def test_changed_constants_are_seen(name, value, needed, nano_graphs, tmp_path):
    copy = shutil.copytree(nano_graphs, tmp_path / "copy")
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, name: value}))
    with pytest.raises(OnnxModelError, match=f"model.json: {name} is .* need {needed}"):
        load_model(copy)


ALONE = """
import importlib.util, json, sys
import numpy as np
from tracker import OnnxImagePredictor, OnnxVideoPredictor, load_model
model = load_model(sys.argv[1])
predictor = OnnxVideoPredictor(model)
masks = []
for strategy in ("sam2", "together"):
    state = predictor.init_state(sys.argv[2], strategy)
    for i, box in enumerate(json.loads(sys.argv[4])):
        predictor.add_new_points_or_box(state, 0, i, box=box)
    masks += [logits > 0 for _, _, logits in predictor.propagate_in_video(state)]
images = OnnxImagePredictor(model)
images.set_image(f"{sys.argv[2]}/00000.jpg")
assert images.predict(box=[20, 20, 70, 60])[0].shape == (3, 90, 120)
assert not any(map(importlib.util.find_spec, ("torch", "sam2fast", "onnx", "scipy")))
np.save(sys.argv[3], np.stack(masks))
"""


def test_without_torch(nano_graphs, video, tmp_path):
    """With numpy, Pillow and onnxruntime as the only packages: the same masks as here."""
    for module in (np, PIL, onnxruntime):
        (tmp_path / module.__name__).symlink_to(Path(module.__file__).parent)
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-S", "-c", ALONE, nano_graphs, video, tmp_path / "masks.npy", json.dumps(BOXES)]
    subprocess.run(command, check=True, cwd=nano_graphs, env=environment)
    predictor = OnnxVideoPredictor(load_model(nano_graphs))
    expected = [track_two(predictor, video, BOXES, strategy=name) for name in ("sam2", "together")]
    assert np.array_equal(np.load(tmp_path / "masks.npy"), np.concatenate(expected))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["sam2.1_t", "sam2.1_b+"])
@pytest.mark.parametrize(("side", "frames"), [(256, 12), (512, 12), (1024, 2)])
def test_published_sizes(size, side, frames, tmp_path):
    official, ours = build_video_pair(size, image_size=side)
    export.write_onnx(ours, tmp_path / "graphs")
    exported = load_model(tmp_path / "graphs")
    compare_images(official, exported, PROMPTS["clicks"])
    video = jpeg_folder(tmp_path / "video", clip(frames))

    def scenario(s):
        s.points(0, 1, (60, 40, 1), (30, 20, 0))
        s.points(0, 2, box=[20, 20, 70, 60])
        s.propagate()
        if frames > 2:
            s.points(3, 1, (65, 45, 0))
            s.remove(2)
            s.propagate(max_frame_num_to_track=4)

    expected = run_official(official, video, scenario, check_itself=False)
    print(f"{size} at {side}: {compare(expected, run(OnnxVideoPredictor(exported), video, scenario)):.1e}")


def edgetam():
    """Returns a video predictor of EdgeTAM for images of 256 pixels."""
    options = {"device": "cpu", "hydra_overrides_extra": ["++model.image_size=256"]}
    return tame_weights.built(build_sam2_video_predictor, "configs/edgetam/edgetam.yaml", None, **options)


@torch.inference_mode()
def test_memories_of_edgetam_do_not_depend_on_other_objects():
    graph = MemoryEncoderGraph(edgetam())
    features, masks = random_map(1, 256, 16, 16), random_map(2, 1, 64, 64)
    found = graph(features, masks, torch.ones(2, 1), torch.zeros(2))
    alone = [graph(features, mask[None], torch.ones(1, 1), torch.zeros(1)) for mask in masks]
    assert relative_error(torch.cat(alone), found) <= 1e-5


@pytest.mark.slow
@torch.inference_mode()
def test_edgetam(video, tmp_path):
    """Compares exported graphs with sam2fast, which tests/family compares with the published code."""
    ours = edgetam()
    export.write_onnx(ours, tmp_path / "graphs")
    exported = OnnxVideoPredictor(load_model(tmp_path / "graphs"))
    compare(run(ours, video, several_objects), run(exported, video, several_objects))
