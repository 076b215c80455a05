"""Exports a model to a folder with ONNX graphs, a manifest, and a tracker that needs neither torch nor sam2fast."""

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam2fast import __version__
from sam2fast.deploy.exported.artifact import check_folder, record_of, weights_digest
from sam2fast.deploy.exported.programs import EncoderModule, export_module
from sam2fast.deploy.onnx.conversion import converted, quiet
from sam2fast.deploy.onnx.graph_modules import MemoryAttentionGraph, MemoryEncoderGraph, PromptGraph
from sam2fast.deploy.onnx.runtime.manifest import MANIFEST, OnnxManifest
from sam2fast.deploy.onnx.standalone import TRACKER, tracker_source
from sam2fast.engine.unmodified import is_unmodified
from sam2fast.io.atomic import filled
from sam2fast.io.file_records import file_sha256
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.strategies import Sam2, Together
from sam2fast.utils.testing import relative_error

OPSET = 20
DTYPES = ("float32", "float16", "int8")
# Maximum relative error of a graph's outputs to its module's outputs: max |a - b| / (mean |a| + std a).
TOLERANCE = 1e-4
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")
# Settings of the model that must be true for export, as in the published models.
REQUIRED = (
    "num_maskmem",
    "directly_add_no_mem_embed",
    "use_mask_input_as_output_without_sam",
    "use_obj_ptrs_in_encoder",
    "pred_obj_scores",
    "fixed_no_obj_ptr",
)
REFUSED = ("soft_no_obj_ptr",)
# Modules that must be unmodified: their graphs contain their weights, but no hooks or replaced methods.
PARTS = (
    "sam_prompt_encoder",
    "sam_mask_decoder",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "memory_attention",
    "memory_encoder",
)


class AxisSizes(NamedTuple):
    """Sizes of a graph's dynamic axes."""

    objects: int
    memories: int  # number of memories per object
    pointers: int  # number of object pointers per object
    points: int  # number of points per object


# Traced sizes differ from each other and are above 1, because torch specializes sizes 0 and 1 and unifies equal sizes.
TRACED = AxisSizes(objects=2, memories=3, pointers=4, points=5)
CHECKED = (AxisSizes(1, 1, 0, 0), AxisSizes(3, 2, 1, 1))


class OnnxGraph(NamedTuple):
    """Module to export as a graph."""

    name: str
    module: nn.Module
    inputs: dict[str, tuple[str | int, ...]]  # shapes; an axis with a name is dynamic
    outputs: tuple[str, ...]
    levels: int = 0  # number of leading inputs that are passed as one list

    def arguments(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Returns the module's arguments. The first ``levels`` inputs become one list, the image's feature levels."""
        return (inputs[: self.levels], *inputs[self.levels :]) if self.levels else tuple(inputs)


def write_onnx(
    model: SAM2VideoPredictor,
    folder: str | Path,
    config: str | None = None,
    dtype: str = "float32",
    progress: Callable[[str], None] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> OnnxManifest:
    """Exports a video predictor's model to a folder with graphs, manifest and tracker. May take some minutes.

    Before a graph is converted to ``dtype``, onnxruntime runs the graph in fp32 at sizes other than the traced sizes,
    and the results are compared with the model's results. After the conversion, masks of the converted graphs are
    compared with the model's masks on photographs of the package.

    Args:
        model: model on the CPU, with fp32 weights.
        folder: folder that is empty or does not exist.
        config: name of the configuration, for the manifest.
        dtype: dtype of the weights in the graphs. Inputs and outputs are fp32. ``int8`` stores only matmul weights as
            int8, and computes in fp32.
        progress: function called with a message before each graph's export.
        made_from: see :func:`sam2fast.deploy.exported.artifact.record_of`.

    Raises:
        FileExistsError: If the folder is not empty or is a file.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        ValueError: If the model is in training mode, is not on the CPU, has settings other than the published models',
            or has a strategy other than ``sam2`` and ``together``; or if ``dtype`` is unknown.
        RuntimeError: If a graph's results differ from the model's results, or masks of ``dtype`` from float32's masks.
        OSError: If a file cannot be written. No files are left behind.
    """
    target = check_folder(folder)
    versions = {"sam2fast": __version__, **{name: _version(name) for name in TOOLS}}
    _check(model, dtype)
    graphs = graphs_of(model)
    with filled(target, MANIFEST) as partial:
        for graph in graphs:
            if progress is not None:
                progress(f"exporting {graph.name}")
            file = partial / f"{graph.name}.onnx"
            export_graph(graph, file)
            check_graph(graph, file)
            converted(file, dtype)
        (partial / TRACKER).write_text(tracker_source(), encoding="utf-8")
        files = {
            file.name: {"size": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(partial.iterdir())
        }
        manifest = manifest_of(model, config, dtype, versions, files)
        record = record_of(partial, made_from)
        _write_manifest(partial, manifest, record)
        if dtype != "float32":
            from sam2fast.deploy.onnx.comparison import check_masks
            from sam2fast.deploy.onnx.runtime.graphs import OnnxModel, load_model

            if progress is not None:
                progress(f"comparing masks of {dtype} and float32")
            agreement = check_masks(OnnxModel(manifest, run_modules(graphs)), load_model(partial))
            manifest = replace(manifest, agreement=agreement)
            _write_manifest(partial, manifest, record)
    return manifest


def _write_manifest(folder: Path, manifest: OnnxManifest, record: Mapping[str, Any]) -> None:
    content = json.dumps({**asdict(manifest), **record}, indent=1)
    (folder / MANIFEST).write_text(content + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"export to ONNX needs {package}: pip install 'sam2fast[onnx]'") from None


def _check(model: SAM2VideoPredictor, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r} for ONNX; expected {', '.join(DTYPES)}")
    if any(module.training for module in model.modules()):
        raise ValueError("export needs evaluation mode: call eval() on the model")
    types = {(x.device.type, x.dtype) for x in model.parameters()}
    if types != {("cpu", torch.float32)}:
        raise ValueError("export to ONNX needs fp32 weights on the CPU; dtype sets the graphs' weights")
    if type(model.strategy) not in (Sam2, Together):
        raise ValueError(
            "the tracker of ONNX graphs has only the strategies sam2 and together, not "
            f"{type(model.strategy).__name__}; first set the model's attribute strategy to one of them"
        )
    for name in PARTS:
        if not is_unmodified(getattr(model, name)):
            raise ValueError(
                f"{name} was hooked, patched or replaced, but a graph contains only weights; export the plain model"
            )
    wrong = [name for name in REQUIRED if not getattr(model, name)]
    wrong += [name for name in REFUSED if getattr(model, name)]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is {getattr(model, wrong[0])}; ONNX export supports only the published models' settings"
        )


def graphs_of(model: SAM2VideoPredictor) -> list[OnnxGraph]:
    """Returns the graphs of a model: encoder, decoder, memory attention and memory encoder."""
    C, m, side = model.hidden_dim, model.mem_dim, model.sam_image_embedding_size
    n, S = model.memory_size[0] * model.memory_size[1], model.image_size
    encoder = EncoderModule(model)
    encoder.no_memory = None
    high_res: dict[str, tuple[str | int, ...]] = {}
    if model.use_high_res_features_in_sam:
        high_res = {"high0": (1, C // 8, 4 * side, 4 * side), "high1": (1, C // 4, 2 * side, 2 * side)}
    one, many = (1, C, side, side), ("objects", C, side, side)
    masks = ("objects", 1, 4 * side, 4 * side)
    prompts: dict[str, tuple[str | int, ...]] = {
        "coords": ("objects", "points", 2),
        "labels": ("objects", "points"),
        "mask": masks,
        "has_mask": ("objects",),
    }
    memories: dict[str, tuple[str | int, ...]] = {
        "features": one,
        "memories": ("objects", "memories", n, m),
        "time_rows": ("objects", "memories"),
        "pointers": ("objects", "pointers", C),
        "offsets": ("objects", "pointers"),
    }
    written: dict[str, tuple[str | int, ...]] = {
        "features": one,
        "masks": masks,
        "scores": ("objects", 1),
        "from_prompt": ("objects",),
    }
    results = ("masks", "ious", "pointers", "scores")
    return [
        OnnxGraph("encoder", encoder, {"pixels": (1, 3, S, S)}, (*high_res, "features")),
        OnnxGraph("decoder", PromptGraph(model), {**high_res, "features": many, **prompts}, results, len(high_res) + 1),
        OnnxGraph("memory_attention", MemoryAttentionGraph(model), memories, ("conditioned",)),
        OnnxGraph("memory_encoder", MemoryEncoderGraph(model), written, ("memory",)),
    ]


def random_inputs(graph: OnnxGraph, sizes: AxisSizes) -> list[Tensor]:
    """Returns random inputs of a graph. Dynamic axes have the given sizes."""
    generator = torch.Generator().manual_seed(sum(sizes))

    def random(name: str, shape: Sequence[str | int]) -> Tensor:
        size = [getattr(sizes, axis) if isinstance(axis, str) else axis for axis in shape]
        if name == "time_rows":
            return torch.arange(sizes.memories).expand(size).contiguous()
        if name == "labels":
            return torch.randint(-1, 4, size, generator=generator, dtype=torch.int32)
        if name in ("has_mask", "from_prompt"):
            return (torch.arange(sizes.objects) % 2).float()
        return torch.randn(size, generator=generator)

    return [random(name, shape) for name, shape in graph.inputs.items()]


def export_graph(graph: OnnxGraph, file: Path) -> None:
    """Exports a graph to a file in fp32.

    Raises:
        RuntimeError: If the opset that torch wrote is not ``OPSET``.
    """
    axes = {name: torch.export.Dim(name, min=0 if name in ("points", "pointers") else 1) for name in AxisSizes._fields}
    dynamic = [
        {i: axes[axis] for i, axis in enumerate(shape) if isinstance(axis, str)} or None
        for shape in graph.inputs.values()
    ]
    shapes = graph.arguments(dynamic)
    with quiet("torch.onnx"):
        program = export_module(graph.module, graph.arguments(random_inputs(graph, TRACED)), shapes)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert exported is not None
    opset = exported.model.opset_imports[""]
    if opset != OPSET:
        raise RuntimeError(
            f"torch {torch.__version__} wrote opset {opset} of ONNX; expected {OPSET}: use a newer torch"
        )
    for node in exported.model.graph:  # removes stack traces, which have this machine's paths
        node.metadata_props.clear()
    exported.save(file)


def check_graph(graph: OnnxGraph, file: Path) -> None:
    """Compares a graph with its module at sizes other than the traced sizes. A fixed axis would fail at these sizes.

    Raises:
        RuntimeError: If the results of graph and module differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    shapes = {node.name: tuple(node.shape) for node in session.get_inputs()}
    if shapes != graph.inputs:
        raise RuntimeError(f"the exporter changed the inputs of {graph.name} to {shapes}; expected {graph.inputs}")
    for sizes in CHECKED:
        inputs = random_inputs(graph, sizes)
        with torch.no_grad():
            expected = graph.module(*graph.arguments(inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        arrays = {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)}
        for name, a, b in zip(graph.outputs, expected, session.run(None, arrays), strict=True):
            error = relative_error(a, b)
            if not error <= TOLERANCE:
                raise RuntimeError(f"{name} of {graph.name} differs from the model by {error:.1e} at {sizes}")


def run_modules(graphs: Sequence[OnnxGraph]) -> Callable[[str, dict[str, Any]], list[Any]]:
    """Returns a function that runs the modules of graphs in torch, as :class:`OnnxModel` runs graphs."""
    by_name = {graph.name: graph for graph in graphs}

    def run(name: str, inputs: dict[str, Any]) -> list[Any]:
        graph = by_name[name]
        with torch.no_grad():
            results = graph.module(*graph.arguments([torch.from_numpy(inputs[key].copy()) for key in graph.inputs]))
        return [x.numpy() for x in (results if isinstance(results, tuple) else (results,))]

    return run


def manifest_of(
    model: SAM2VideoPredictor,
    config: str | None = None,
    dtype: str = "float32",
    versions: dict[str, str] | None = None,
    files: dict[str, dict[str, Any]] | None = None,
) -> OnnxManifest:
    """Returns the manifest of a model and the written files. See :class:`OnnxManifest`."""
    rules, decoder, downsample = MemoryRules.of(model), model.sam_mask_decoder, model.mask_downsample
    assert downsample.bias is not None
    stability = None
    if decoder.dynamic_multimask_via_stability:
        stability = [decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh]
    return OnnxManifest(
        config=config,
        dtype=dtype,
        opset=OPSET,
        versions=versions or {},
        weights=weights_digest(model),
        files=files or {},
        image_size=model.image_size,
        mean=list(model.pixel_mean),
        std=list(model.pixel_std),
        no_mem_embed=model.no_mem_embed.flatten().tolist(),
        no_obj_ptr=model.no_obj_ptr.flatten().tolist(),
        mask_downsample=[*downsample.weight.flatten().tolist(), *downsample.bias.tolist()],
        memory_rules={name: value for name, value in asdict(rules).items() if value is not None},
        multimask_output_in_sam=model.multimask_output_in_sam,
        multimask_output_for_tracking=model.multimask_output_for_tracking,
        multimask_min_pt_num=model.multimask_min_pt_num,
        multimask_max_pt_num=model.multimask_max_pt_num,
        use_multimask_token_for_obj_ptr=model.use_multimask_token_for_obj_ptr,
        stability=stability,
        binarize_mask_from_pts_for_mem_enc=model.binarize_mask_from_pts_for_mem_enc,
        fill_hole_area=model.fill_hole_area,
        non_overlap_masks=model.non_overlap_masks,
        clear_non_cond_mem_around_input=model.clear_non_cond_mem_around_input,
        add_all_frames_to_correct_as_cond=model.add_all_frames_to_correct_as_cond,
        stride=model.backbone_stride,
        strategy="together" if type(model.strategy) is Together else "sam2",
    )
