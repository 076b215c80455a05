"""The readers under test, and the exceptions that each documents."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import companion_files
import documents
import mutators
import pickles
import readers_of_media as media
import readers_of_texts as texts
import readers_of_weights as weights
import yamls
from click import UsageError

from sam2fast.checkpoints import CheckpointError, choose_config
from sam2fast.cli.boxes import read_boxes
from sam2fast.cli.mask_files import read_foreground
from sam2fast.config import ConfigError
from sam2fast.datasets.dataset_files import DatasetError, labels_in, read_labels
from sam2fast.datasets.davis import Davis
from sam2fast.datasets.json_lines import JsonLines
from sam2fast.datasets.sav_json import SavJson
from sam2fast.evaluation.clicks.sources import Sa1bMasks
from sam2fast.results.record import RecordError
from sam2fast.tracking.saved_state import StateError
from sam2fast.training import checkpointing
from sam2fast.training.data.clip import DataError
from sam2fast.transforms import ImageError, to_pixels
from sam2fast.utils.errors import FixableError
from sam2fast.video_io import VideoError


@dataclass(frozen=True)
class Target:
    """A function that reads one file, and its documented exceptions."""

    kind: str  # a key of seeds.SEEDS
    file: str  # the name of the mutated file in the target's folder
    allowed: tuple[type[Exception], ...]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None  # writes the files that are needed beside it, once
    share: float = 1.0  # relative frequency
    is_named: bool = False  # a refusal must name the file


def named(kind: str, file: str, allowed: type[Exception], read: Callable[[Path], object], share: float = 1) -> Target:
    """A reader of one file, whose refusals name the file."""
    return Target(kind, file, (allowed,), read, share=share, is_named=True)


def of_layout(layout: Callable[[Path], Any], folders: int, name: str = "clip") -> Callable[[Path], object]:
    """Reads a video of a data set, which is so many folders above the file."""
    return lambda path: deque(layout(path.parents[folders]).open(name), 0)


VIDEO, CONFIG = (VideoError,), (ConfigError, FileNotFoundError)
SAFE, SAV = "weights.safetensors", "sav_000001_manual.json"

OF_MEDIA = {
    "open_frames": Target("video", "video", VIDEO, media.all_frames, companion_files.secret, 10),
    "open_frames of bytes": Target(
        "video", "video", VIDEO, lambda p: media.all_frames(p.read_bytes()), companion_files.secret, 3
    ),
    "read_frames": Target("video", "video", VIDEO, media.streamed, companion_files.secret, 10),
    "read_frames of a file object": Target("video", "video", VIDEO, media.streamed_file, companion_files.secret, 2),
    "video of training": Target(
        "video", "video.mp4", (DatasetError,), media.video_frames, companion_files.secret, 2, True
    ),
    "to_pixels": named("image", "image", ImageError, to_pixels, 8),
    "to_pixels of PIL": Target("image", "image", (ImageError,), media.lazy_pixels, share=3),
    "folder": Target(
        "image", "frames/00001.png", VIDEO, lambda p: media.all_frames(p.parent), companion_files.with_frames, 3
    ),
    "folder in turn": Target("image", "frames/00001.png", VIDEO, lambda p: media.streamed(p.parent), share=2),
    "list of paths": Target("image", "image", VIDEO, lambda p: media.all_frames([p]), share=2),
    "image of training": named("image", "image.jpg", DatasetError, media.training_frame, 3),
    "prompt mask": named("image", "mask.png", FixableError, read_foreground, 2),
    "labels of training": named("mask", "mask.png", DatasetError, lambda p: labels_in(read_labels(p)), 2),
    "label map": Target("mask", "mask.png", (DatasetError,), media.labels, companion_files.with_image, 2, True),
    "masks of vos": Target("mask", "masks/00001.png", (DatasetError,), media.vos_masks, share=2),
    "DAVIS": Target("mask", "Annotations/clip/00001.png", (DatasetError,), of_layout(Davis, 2), companion_files.davis),
    "click labels": named("mask", "mask.png", DatasetError, media.click_labels),
}
OF_WEIGHTS = {
    "read_checkpoint": named("pt", "weights.pt", CheckpointError, weights.any_checkpoint, 6),
    "load_checkpoint": named("pt", "weights.pt", CheckpointError, weights.whole_checkpoint, 4),
    "load_partial": named("pt", "weights.pt", CheckpointError, weights.part_checkpoint, 2),
    "choose_config": named("pt", "weights.pt", CheckpointError, choose_config, 2),
    "convert_checkpoint": Target("pt", "weights.pt", (CheckpointError,), weights.converted),
    "training checkpoint": named("pt", "checkpoint.pt", CheckpointError, checkpointing.load, 2),
    "read_checkpoint of safetensors": named("safetensors", SAFE, CheckpointError, weights.any_checkpoint, 5),
    "load_checkpoint of safetensors": named("safetensors", SAFE, CheckpointError, weights.whole_checkpoint, 4),
    "choose_config of safetensors": named("safetensors", SAFE, CheckpointError, choose_config, 2),
    "adapters": Target(
        *("safetensors", "adapter_model.safetensors", (CheckpointError,), weights.adapters),
        *(companion_files.with_adapters, 2),
    ),
    "configuration of adapters": Target(
        *("adapter-config", "adapter_config.json", (CheckpointError,), weights.adapters),
        *(companion_files.with_adapters, 0.3),
    ),
    "index": Target(
        *("index", "model.safetensors.index.json", (CheckpointError, FileNotFoundError), weights.any_checkpoint),
        *(companion_files.with_weights, 2),
    ),
    "config.json": Target(
        *("hf-config", "config.json", (CheckpointError,), weights.choose_beside, companion_files.with_transformers, 0.3)
    ),
    "load_state": Target("state", "state", (StateError,), weights.state),
    "restore_stream": Target("state", "state", (StateError,), weights.stream, share=0.5),
    "load_config": Target("model", "model.yaml", CONFIG, weights.model_config, share=1.5),
    "build_sam2": Target("model", "model.yaml", CONFIG, weights.built_model, share=0.3),
    "training configuration": Target("recipe", "recipe.yaml", CONFIG, weights.training_config),
}
OF_TEXTS = {
    "prompts": Target("prompts", "prompts.json", (FixableError, UsageError), texts.prompts, share=3),
    "masks.jsonl": named("tracked", "masks.jsonl", RecordError, texts.record, 2),
    "masks.jsonl by frame": named("tracked", "masks.jsonl", RecordError, texts.record_index),
    "JSON lines": Target("tracked", "clip.jsonl", (DatasetError,), of_layout(JsonLines, 0), share=2),
    "SA-V": named("masklets", SAV, DatasetError, texts.sav, 2),
    "SA-V as a layout": Target("masklets", SAV, (DatasetError,), of_layout(SavJson, 0, SAV[:10])),
    "SA-V of training": Target("masklets", SAV, (DatasetError,), texts.training_masklets, companion_files.sav),
    "SA-1B": Target("sa1b", "sa_1.json", (DatasetError,), texts.training_sa1b, companion_files.sa1b, 2, True),
    "SA-1B of clicks": named("sa1b", "sa_1.json", DatasetError, lambda p: Sa1bMasks(p, p).read(media.SIZE)),
    "COCO": Target(
        "coco", "instances.json", (DataError, DatasetError), texts.training_coco, companion_files.with_image, 2
    ),
    "COCO of clicks": Target(
        *("coco", "instances.json", (DatasetError,), texts.click_coco, companion_files.with_image)
    ),
    "COCO of boxes": named("coco", "instances.json", FixableError, read_boxes),
    "YouTube-VOS": Target("ytvos", "meta.json", (DatasetError,), texts.youtube, companion_files.youtube),
    "facts": Target("facts", "Facts/clip.json", (DatasetError,), of_layout(Davis, 1), companion_files.davis),
    "track.json": Target("run", "track.json", (FixableError,), texts.run_folder),
    "results of masks": named("found", "masks.json", FixableError, texts.earlier_masks),
}
TARGETS = {**OF_MEDIA, **OF_WEIGHTS, **OF_TEXTS}


@cache
def mutators_of(kind: str) -> Sequence[mutators.Mutator]:
    """Format-aware mutations of a kind of files; repeated ones are more frequent."""
    of_texts = (*[documents.json_values] * 3, documents.json_twice)
    of_yaml = (*[yamls.yaml_values] * 3, yamls.yaml_bomb)
    by_kind: dict[str, Sequence[mutators.Mutator]] = {
        "video": (*[mutators.boxes] * 3, mutators.elements),
        "image": (*[mutators.png_chunks] * 2, mutators.png_claims, mutators.png_text_bomb, mutators.jpeg_segments),
        "mask": (*[mutators.png_chunks] * 2, mutators.png_claims, mutators.png_text_bomb),
        "pt": (*[pickles.members] * 2, pickles.hostile_member, pickles.hostile_file, pickles.odd_checkpoint),
        "safetensors": (documents.safetensors_header,),
        "state": (*[documents.state_facts] * 3, documents.safetensors_header),
        "model": of_yaml,
        "recipe": of_yaml,
    }
    return by_kind.get(kind, of_texts)
