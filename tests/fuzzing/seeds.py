"""The valid files that are mutated, by kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import seeds_media
import seeds_texts
import seeds_weights
import torch

SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "video": seeds_media.videos,
    "image": seeds_media.images,
    "mask": seeds_media.masks,
    "pt": seeds_weights.pickled,
    "safetensors": seeds_weights.safetensors,
    "state": seeds_weights.states,
    "prompts": seeds_texts.prompts,
    "tracked": seeds_texts.tracked,
    "masklets": seeds_texts.masklets,
    "sa1b": seeds_texts.sa1b,
    "coco": seeds_texts.coco,
    "ytvos": seeds_texts.ytvos,
    "facts": seeds_texts.facts,
    "run": seeds_texts.runs,
    "found": seeds_texts.found_masks,
    "hf-config": seeds_texts.transformers_configs,
    "index": seeds_texts.indexes,
    "adapter-config": seeds_weights.adapter_configs,
    "model": seeds_texts.models,
    "recipe": seeds_texts.recipes,
}


def write_seeds(folder: Path) -> None:
    """Writes all files, once, into a folder for each kind, named by the numbers in :mod:`expected_refusals`."""
    for kind, make in SEEDS.items():
        if not (folder / kind).exists():
            (folder / kind).mkdir(parents=True)
            torch.manual_seed(0)
            for number, data in enumerate(make()):
                if data:
                    (folder / kind / f"{number:02d}").write_bytes(data)
