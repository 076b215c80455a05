"""Valid checkpoints, training runs and saved sessions of a few tensors each."""

import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mini_model import mini_predictor
from pickles import saved
from safetensors.torch import save

from sam2fast.checkpoints.int8 import to_int8
from sam2fast.checkpoints.transformers_layout import POINTS, POSITIONS, to_transformers

# The video and the predictor of the saved states.
TINY_VIDEO = [np.random.default_rng(i).integers(0, 255, (128, 128, 3), dtype=np.uint8) for i in range(2)]
video_predictor = cache(mini_predictor)


def tiny_model() -> torch.nn.Module:
    """A model with the names that identify the layout; loads :func:`weights`."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"sam_mask_decoder": torch.nn.Linear(4, 3), "memory_encoder": torch.nn.Linear(3, 2)})
    model.register_parameter("no_mem_embed", torch.nn.Parameter(torch.zeros(1, 1, 4)))
    return model


def weights() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_model().state_dict().items()}


def secret() -> dict[str, torch.Tensor]:
    """The content of a forbidden file, which includes its name."""
    return {"secret": torch.zeros(1)}


def nano_like() -> dict[str, torch.Tensor]:
    """The weights that identify nano."""
    blocks = {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.zeros(2) for i in range(10)}
    return {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(32, 3, 1, 1), **blocks}


def transformers_like() -> dict[str, torch.Tensor]:
    more = {name: torch.zeros(1, 4) for name in POINTS} | {POSITIONS: torch.zeros(2, 4)}
    return to_transformers({**nano_like(), **more})


def training_run() -> dict[str, Any]:
    counts = {"steps": 3, "steps_in_epoch": 3, "epoch": 0, "ema": None}
    return {"model": weights(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, **counts}


def pickled() -> Iterator[bytes]:
    for content in ({"model": weights()}, weights(), nano_like(), transformers_like(), training_run()):
        yield saved(content)
    yield saved({"model": weights()}, zipped=False)
    yield saved({"state_dict": {f"module.{name}": tensor for name, tensor in weights().items()}})


def safetensors() -> Iterator[bytes]:
    yield save(weights())
    yield save(nano_like())
    yield save({name: tensor.contiguous() for name, tensor in transformers_like().items()}, {"format": "pt"})
    yield adapters()
    yield save(to_int8({"memory_encoder.weight": torch.ones(64, 64)}))


def adapters() -> bytes:
    """As ``peft`` writes them."""
    names = (f"base_model.model.memory_encoder.lora_{kind}.weight" for kind in "AB")
    return save(dict(zip(names, (torch.ones(2, 3), torch.ones(2, 2)), strict=True)), {"format": "pt"})


def adapter_configs() -> Iterator[bytes]:
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "target_modules": ["memory_encoder"], "use_dora": False}
    yield json.dumps(about).encode()


def states() -> Iterator[bytes]:
    """Yields the saved states of a video with two tracked objects and of a stream."""
    predictor = video_predictor()
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        state = predictor.init_state(TINY_VIDEO)
        predictor.add_new_points_or_box(state, 0, "disc", [[30, 40]], [1])
        predictor.add_new_mask(state, 1, 7, np.eye(128, dtype=bool))
        for _ in predictor.propagate_in_video(state, progress=False):
            pass
        predictor.save_state(state, Path(folder) / "state")
        yield (Path(folder) / "state").read_bytes()
        with predictor.open_stream() as stream:
            stream.step(TINY_VIDEO[0])
            stream.add_new_points_or_box("disc", [[30, 40]], [1])
            stream.step(TINY_VIDEO[1])
            stream.save(Path(folder) / "stream")
        yield (Path(folder) / "stream").read_bytes()
