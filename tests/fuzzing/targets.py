"""The readers that files are given to, and what each may answer: something, or an exception that it documents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import documents
import mutators
import pickles
import readers_of_media as media
import readers_of_texts as texts
import readers_of_weights as weights
import worlds
import yamls
from click import UsageError

from sam2fast.checkpoints import CheckpointError
from sam2fast.cli.errors import UserError
from sam2fast.config import ConfigError
from sam2fast.datasets.errors import DatasetError
from sam2fast.tracking.saved_state import StateError
from sam2fast.training.data.errors import DataError
from sam2fast.transforms import ImageError
from sam2fast.video_io import VideoError
from sam2fast.video_results.record import RecordError


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        kind: of the files that it is given, see :data:`seeds.SEEDS`.
        file: what the mutated file is called in the target's folder.
        allowed: what it may raise, by its own documentation.
        read: reads the file, and all that is in it.
        prepare: puts what is needed beside the file, once.
        share: how often it is chosen, beside others.
        is_named: a refusal has to say which file it is about.
    """

    kind: str
    file: str
    allowed: tuple[type[Exception], ...]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    share: float = 1.0
    is_named: bool = False


def named(kind: str, file: str, allowed: type[Exception], read: Callable[[Path], object], share: float = 1) -> Target:
    """A reader of one file, which says which file it refuses."""
    return Target(kind, file, (allowed,), read, share=share, is_named=True)


VIDEO, CONFIG = (VideoError,), (ConfigError, FileNotFoundError)
SAFE, SAV = "weights.safetensors", "sav_000001_manual.json"

OF_MEDIA = {
    "open_frames": Target("film", "film", VIDEO, media.all_frames, worlds.secret, 10),
    "open_frames of bytes": Target("film", "film", VIDEO, lambda p: media.all_frames(p.read_bytes()), worlds.secret, 3),
    "read_frames": Target("film", "film", VIDEO, media.streamed, worlds.secret, 10),
    "read_frames of a file object": Target("film", "film", VIDEO, media.streamed_file, worlds.secret, 2),
    "film of training": Target("film", "film.mp4", (DatasetError,), media.film_frames, worlds.secret, 2, True),
    "to_pixels": named("image", "picture", ImageError, media.pixels, 8),
    "to_pixels of PIL": Target("image", "picture", (ImageError,), media.lazy_pixels, share=3),
    "folder": Target("image", "frames/00001.png", VIDEO, lambda p: media.all_frames(p.parent), worlds.with_frames, 3),
    "folder in turn": Target("image", "frames/00001.png", VIDEO, lambda p: media.streamed(p.parent), share=2),
    "list of paths": Target("image", "picture", VIDEO, lambda p: media.all_frames([p]), share=2),
    "picture of training": named("image", "picture.jpg", DatasetError, media.training_frame, 3),
    "prompt mask": named("image", "mask.png", UserError, media.foreground, 2),
    "labels of training": named("mask", "mask.png", DatasetError, media.training_labels, 2),
    "label map": Target("mask", "mask.png", (DatasetError,), media.labels, worlds.with_picture, 2, True),
    "masks of vos": Target("mask", "masks/00001.png", (DatasetError,), media.vos_masks, share=2),
    "DAVIS": Target("mask", "Annotations/clip/00001.png", (DatasetError,), media.davis, worlds.davis),
    "click labels": named("mask", "mask.png", DatasetError, media.click_labels),
}
OF_WEIGHTS = {
    "read_checkpoint": named("pt", "weights.pt", CheckpointError, weights.any_checkpoint, 6),
    "load_checkpoint": named("pt", "weights.pt", CheckpointError, weights.whole_checkpoint, 4),
    "load_partial": named("pt", "weights.pt", CheckpointError, weights.part_checkpoint, 2),
    "choose_config": named("pt", "weights.pt", CheckpointError, weights.choose, 2),
    "convert_checkpoint": Target("pt", "weights.pt", (CheckpointError,), weights.converted),
    "training checkpoint": named("pt", "checkpoint.pt", CheckpointError, weights.training_checkpoint, 2),
    "read_checkpoint of safetensors": named("safetensors", SAFE, CheckpointError, weights.any_checkpoint, 5),
    "load_checkpoint of safetensors": named("safetensors", SAFE, CheckpointError, weights.whole_checkpoint, 4),
    "choose_config of safetensors": named("safetensors", SAFE, CheckpointError, weights.choose, 2),
    "adapters": named("safetensors", "adapters.safetensors", CheckpointError, weights.adapters, 2),
    "index": Target(
        *("index", "model.safetensors.index.json", (CheckpointError, FileNotFoundError), weights.any_checkpoint),
        *(worlds.with_weights, 2),
    ),
    "config.json": Target(
        *("hf-config", "config.json", (CheckpointError,), weights.choose_beside, worlds.with_transformers, 0.3)
    ),
    "load_state": Target("state", "state", (StateError,), weights.state),
    "restore_stream": Target("state", "state", (StateError,), weights.stream, share=0.5),
    "load_config": Target("model", "model.yaml", CONFIG, weights.model_config, share=1.5),
    "build_sam2": Target("model", "model.yaml", CONFIG, weights.built_model, share=0.3),
    "training configuration": Target("recipe", "recipe.yaml", CONFIG, weights.training_config),
}
OF_TEXTS = {
    "prompts": Target("prompts", "prompts.json", (UserError, UsageError), texts.prompts, share=3),
    "masks.jsonl": named("tracked", "masks.jsonl", RecordError, texts.record, 2),
    "masks.jsonl by frame": named("tracked", "masks.jsonl", RecordError, texts.record_index),
    "JSON lines": Target("tracked", "clip.jsonl", (DatasetError,), texts.json_lines, share=2),
    "SA-V": named("masklets", SAV, DatasetError, texts.sav, 2),
    "SA-V as a layout": Target("masklets", SAV, (DatasetError,), texts.sav_layout),
    "SA-V of training": Target("masklets", SAV, (DatasetError,), texts.training_masklets, worlds.sav),
    "SA-1B": Target("sa1b", "sa_1.json", (DatasetError,), texts.training_sa1b, worlds.sa1b, 2, True),
    "SA-1B of clicks": named("sa1b", "sa_1.json", DatasetError, texts.click_sa1b),
    "COCO": Target("coco", "instances.json", (DataError, DatasetError), texts.training_coco, worlds.with_picture, 2),
    "COCO of clicks": Target(*("coco", "instances.json", (DatasetError,), texts.click_coco, worlds.with_picture)),
    "YouTube-VOS": Target("ytvos", "meta.json", (DatasetError,), texts.youtube, worlds.youtube),
    "facts": Target("facts", "Facts/clip.json", (DatasetError,), texts.davis_facts, worlds.davis),
    "track.json": Target("run", "track.json", (UserError,), texts.run_folder),
    "results of masks": named("found", "masks.json", UserError, texts.earlier_masks),
    "record of segment": Target("found", "record.json", (), texts.earlier_record, share=0.5),
}
TARGETS = {**OF_MEDIA, **OF_WEIGHTS, **OF_TEXTS}


@cache
def mutators_of(kind: str) -> Sequence[mutators.Mutator]:
    """Changes that know what is in files of a kind, some more often than others."""
    of_texts = (*[documents.json_values] * 3, documents.json_twice)
    of_yaml = (*[yamls.yaml_values] * 3, yamls.yaml_bomb, yamls.interpolation_bomb)
    by_kind: dict[str, Sequence[mutators.Mutator]] = {
        "film": (*[mutators.boxes] * 3, mutators.elements),
        "image": (*[mutators.png_chunks] * 2, mutators.png_claims, mutators.png_text_bomb, mutators.jpeg_segments),
        "mask": (*[mutators.png_chunks] * 2, mutators.png_claims, mutators.png_text_bomb),
        "pt": (*[pickles.members] * 2, pickles.hostile_member, pickles.hostile_file, pickles.odd_checkpoint),
        "safetensors": (documents.safetensors_header,),
        "state": (*[documents.state_facts] * 3, documents.safetensors_header),
        "model": of_yaml,
        "recipe": of_yaml,
    }
    return by_kind.get(kind, of_texts)
