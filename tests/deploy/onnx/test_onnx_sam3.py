"""SAM 3's exported modules, and its graphs in onnxruntime, beside the predictor."""

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from graph_sessions import assert_same
from onnx_graphs import model_of_modules
from parity import random_image, random_map
from small_sam3 import CLICK, MAP, SIDE, prompts, small_sam3
from video import run

from sam2fast.deploy.onnx import export
from sam2fast.deploy.onnx.runtime.graphs import _check_constants
from sam2fast.deploy.onnx.runtime.images import OnnxImagePredictor
from sam2fast.deploy.onnx.runtime.manifest import OnnxModelError
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error


@pytest.fixture(scope="module")
def predictor():
    return small_sam3()


def test_onnx(predictor, video):
    """The modules that are exported, and the loop around their graphs."""
    model = model_of_modules(predictor)
    found = run(OnnxVideoPredictor(model), video, prompts)
    assert_same(run(predictor, video, prompts), found, 1e-4)
    ours, theirs = SAM2ImagePredictor(predictor), OnnxImagePredictor(model)
    for images in (ours, theirs):
        images.set_image(random_image(60, 80))
    mask = random_map(1, 4 * MAP, 4 * MAP).numpy()
    for a, b in zip(*(x.predict(**CLICK, mask_input=mask, return_logits=True) for x in (ours, theirs)), strict=True):
        assert a.shape == b.shape and relative_error(a, b) <= 1e-4
    _check_constants(model.manifest, predictor.hidden_dim, MAP)
    with pytest.raises(OnnxModelError, match=f"image_size is {SIDE}; the graphs need 126"):
        _check_constants(model.manifest, predictor.hidden_dim, 9)


def test_graphs_in_onnxruntime(predictor, tmp_path):
    """Those whose modules or tables are others than SAM 2's; the others accept the shapes of their inputs."""
    for graph in export.graphs_of(predictor):
        if graph.name in ("encoder", "memory_attention"):
            export.export_graph(graph, tmp_path / graph.name)
            export.check_graph(graph, tmp_path / graph.name)
        else:
            graph.module(*graph.arguments(export.random_inputs(graph, export.TRACED)))
