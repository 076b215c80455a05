"""The tracker of exported models on modules that were not exported, and beside predictors that return tensors."""

from typing import Any

import numpy as np
import torch

from sam2fast.deploy.onnx.export import graphs_of, manifest_of
from sam2fast.deploy.onnx.runtime.graphs import OnnxModel
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor


def model_of_modules(model: Any) -> OnnxModel:
    """Runs the modules that would be exported: seconds instead of the exporter's minute."""
    graphs = {graph.name: graph for graph in graphs_of(model)}

    def run(name: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        graph = graphs[name]
        assert list(inputs) == list(graph.inputs)
        given = [torch.from_numpy(x.copy()) for x in inputs.values()]
        with torch.no_grad():
            results = graph.module(*graph.arguments(given))
        return [x.numpy() for x in (results if isinstance(results, tuple) else (results,))]

    return OnnxModel(manifest_of(model), run)


class AsTensors:
    """An exported model's predictor for scenarios of ``video.Session``: masks become tensors, paths are strings."""

    def __init__(self, predictor: OnnxVideoPredictor) -> None:
        self._predictor = predictor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def add_new_points_or_box(self, *args: Any, **kwargs: Any) -> Any:
        return _as_tensors(self._predictor.add_new_points_or_box(*args, **kwargs))

    def add_new_mask(self, *args: Any, **kwargs: Any) -> Any:
        return _as_tensors(self._predictor.add_new_mask(*args, **kwargs))

    def clear_all_prompts_in_frame(self, *args: Any, **kwargs: Any) -> Any:
        return _as_tensors(self._predictor.clear_all_prompts_in_frame(*args, **kwargs))

    def propagate_in_video(self, *args: Any, **kwargs: Any) -> Any:
        return map(_as_tensors, self._predictor.propagate_in_video(*args, **kwargs))

    def remove_object(self, *args: Any, **kwargs: Any) -> Any:
        ids, updated = self._predictor.remove_object(*args, **kwargs)
        return ids, [(frame, torch.from_numpy(masks)) for frame, masks in updated]


def _as_tensors(answer: tuple[int, list[Any], np.ndarray]) -> tuple[int, list[Any], torch.Tensor]:
    return answer[0], answer[1], torch.from_numpy(answer[2])
