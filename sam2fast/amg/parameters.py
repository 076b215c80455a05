"""Checks parameters of the automatic mask generator, and computes the decoder's batch size."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sam2fast.amg.utils import build_all_layer_point_grids
from sam2fast.engine.graphs import memory_of_graphs
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import LARGEST
from sam2fast.utils.embedded import NANO

# Default thresholds of the generator. Nano has lower thresholds, since nano predicts lower scores.
THRESHOLDS: Mapping[str, Any] = {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.95}
THRESHOLDS_OF_NANO: Mapping[str, Any] = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}
# Maximum batch size on the CPU. Larger batches need more memory, but are not faster.
CPU_PROMPTS = 16
# Upper bound of the decoder's memory per prompt, as a multiple of the size of an fp32 image embedding.
EMBEDDINGS_PER_PROMPT = 16
# Fraction of the free GPU memory that the decoder may use.
MEMORY_SHARE = 0.7


def thresholds_of(config: str) -> Mapping[str, Any]:
    """Returns the generator's threshold arguments for a model with the configuration ``config``."""
    return THRESHOLDS_OF_NANO if config == NANO.config else THRESHOLDS


def grids_of_layers(
    points_per_side: int | None, point_grids: list[np.ndarray] | None, layers: int, factor: float
) -> list[np.ndarray]:
    """Returns grids ``(N, 2)`` of points (x, y) in [0, 1] for the whole image and each layer of crops.

    Args:
        points_per_side: Points per side of the grid for the whole image. Grids of layer i have
            ``points_per_side / factor**i`` points per side.
        point_grids: Grids to use instead of ``points_per_side``.
        layers: Number of layers of crops.
        factor: Ratio of points per side between successive layers.

    Raises:
        ValueError: If both or neither of ``points_per_side`` and ``point_grids`` are None, a layer has no points, or a
            grid is invalid.
    """
    if (points_per_side is None) == (point_grids is None):
        raise ValueError("exactly one of points_per_side or point_grids must be None")
    if point_grids is None:
        check_integers(points_per_side=(points_per_side, 1))
        assert points_per_side is not None
        if _points_in_layer(points_per_side, layers, factor) < 1:
            raise ValueError(
                f"crop_n_points_downscale_factor {factor} leaves layer {layers} of crops without points: "
                f"points_per_side is {points_per_side}"
            )
        return build_all_layer_point_grids(points_per_side, layers, factor)
    try:
        grids = [np.asarray(grid, dtype=np.float64) for grid in point_grids]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"point_grids must be a list of points (N, 2) for each layer: {error}") from error
    if len(grids) <= layers:
        raise ValueError(f"point_grids has {len(grids)} grids, but crop_n_layers {layers} needs {layers + 1}")
    for i, grid in enumerate(grids):
        if grid.ndim != 2 or grid.shape[1] != 2:
            raise ValueError(f"point_grids[{i}] must be points (N, 2), got shape {grid.shape}")
        if not ((grid >= 0) & (grid <= 1)).all():  # also for NaN
            raise ValueError(
                f"point_grids[{i}] has values from {grid.min():g} to {grid.max():g}; expected fractions of the image's "
                "width and height in [0, 1]: divide pixels by (width, height)"
            )
    return grids


def _points_in_layer(points_per_side: int, layer: int, factor: float) -> int:
    try:
        return int(points_per_side / factor**layer)
    except OverflowError:
        return 0


def check_integers(**values: tuple[Any, int]) -> None:
    """Checks pairs (value, minimum). Raises ValueError if a value is not an integer, or below the minimum."""
    for name, (value, least) in values.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_limits(least: float = -np.inf, most: float = np.inf, **values: Any) -> None:
    """Raises ValueError if one of ``values`` is not a number in [``least``, ``most``]."""
    for name, value in values.items():
        is_number = isinstance(value, int | float | np.integer | np.floating) and least <= value <= most
        if not is_number or (isinstance(value, int) and abs(value) > LARGEST):  # torch cannot compare larger integers
            between = (
                f" from {least} to {most}" if most < np.inf else f" of at least {least}" if least > -np.inf else ""
            )
            raise ValueError(f"{name} must be a number{between}, got {value!r}")


def decoder_batch_size(limit: int, model: SAM2Base) -> int:
    """Returns the number of prompts per decoder call: at most ``limit`` prompts that fit into free GPU memory."""
    device = model.device
    if device.type == "cpu":
        return min(limit, CPU_PROMPTS)
    if device.type != "cuda":
        return limit
    free = torch.cuda.mem_get_info(device)[0]
    # Unused memory that torch has reserved, without the memory pools of CUDA graphs.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free += max(0, unused - memory_of_graphs(device))
    embedding = 4 * model.hidden_dim * model.sam_image_embedding_size**2
    return max(1, min(limit, int(MEMORY_SHARE * free / (EMBEDDINGS_PER_PROMPT * embedding))))
