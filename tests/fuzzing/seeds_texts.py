"""Valid JSON and YAML files."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seeds_media import HEIGHT, WIDTH, label_map
from seeds_weights import weights

from sam2fast import __version__, nano
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.cli.mask_finder import KEYS
from sam2fast.config import shipped_configs, shipped_recipes
from sam2fast.io.rle import encode_rle


def rles() -> list[Any]:
    return [encode_rle(label_map(i) == i) for i in (1, 2)]


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def prompts() -> Iterator[bytes]:
    one = {"frame": 0, "object": 1, "points": [[10, 12], [3.5, 4]], "labels": [1, 0], "box": [1, 2, 30, 20]}
    yield as_json({"prompts": [one, {"frame": 3, "object": "dog", "mask": "dog.png"}]})


def tracked() -> Iterator[bytes]:
    def line(frame: int) -> dict[str, Any]:
        entry = {"area": 3, "box": [4, 8, 14, 12], "score": 0.94, "object_score": 13.2}
        objects = [{"id": name, "rle": rle, **entry} for name, rle in zip((1, "dog"), rles(), strict=True)]
        return {"frame": frame, "time": frame / 10, "objects": objects}

    yield b"".join(as_json(line(frame)) + b"\n" for frame in range(3))
    about = {"format": "sam2fast masks", "version": 1, "video": "clip", "size": [HEIGHT, WIDTH], "objects": [1, 2]}
    entries = [{"id": number, "rle": rle} for number, rle in enumerate(rles(), 1)]
    frames = [{"frame": i, "name": f"{i:05d}", "objects": entries} for i in range(2)]
    lines = [{**about, "frames": ["00000", "00001"], "facts": {"a": 1}}, *frames]
    yield b"".join(as_json(line) + b"\n" for line in lines)


def masklets() -> Iterator[bytes]:
    about = {"video_id": "sav_000001", "video_height": HEIGHT, "video_width": WIDTH, "fps": 6.0}
    yield as_json({"masklet": [rles(), [rles()[0], None]], "masklet_id": [0, 1], **about})
    yield as_json([rles(), rles()])


def sa1b() -> Iterator[bytes]:
    entries = [{"id": i, "segmentation": rle, "area": 9, "uncertain_iou": 0.5} for i, rle in enumerate(rles())]
    yield as_json({"image": {"image_id": 1, "height": HEIGHT, "width": WIDTH}, "annotations": entries})


def coco() -> Iterator[bytes]:
    polygon = [[4, 8, 18, 8, 18, 20, 4, 20]]
    plain = {"size": [HEIGHT, WIDTH], "counts": [100, 12, HEIGHT * WIDTH - 112]}
    shapes = [polygon, rles()[0], plain]
    annotation = {"image_id": 1, "category_id": 1, "area": 12.5, "iscrowd": 0, "bbox": [4, 8, 14, 12.5]}
    entries = [{**annotation, "id": i, "segmentation": shape} for i, shape in enumerate(shapes, 1)]
    image = {"id": 1, "file_name": "image.png", "height": HEIGHT, "width": WIDTH}
    yield as_json({"images": [image], "annotations": entries, "categories": [{"id": 1, "name": "thing"}]})


def ytvos() -> Iterator[bytes]:
    objects = {str(i): {"category": "dog", "frames": ["00000", "00001"]} for i in (1, 2)}
    yield as_json({"videos": {"clip": {"objects": objects}}})


def facts() -> Iterator[bytes]:
    content = {"size": [HEIGHT, WIDTH], "frames": ["00000", "00001"], "objects": [1, 2], "facts": {"palette": "00ff00"}}
    yield as_json({**content, "unannotated": {"00001": []}, "numbers": {"2": 2}, "meta": {"objects": {}}})


def runs() -> Iterator[bytes]:
    made_from = {"video": "v", "prompts": [], "range": {"start": 0}}
    files = {"overlay": {"size": 3}}
    place = {"done": 2, "complete": False, "state": "state_2.safetensors"}
    yield as_json({"made_from": made_from, **place, "objects": [1, "dog"], "files": files})


def found_masks() -> Iterator[bytes]:
    model = {"config": "c", "checkpoint": "w", "dtype": "float32", "device": "cpu"}
    made_from = {"image_path": "/image.png", "image_content": "d"}
    image = {"id": 1, "file_name": "image.png", "height": HEIGHT, "width": WIDTH, "made_from": made_from}
    mask = dict.fromkeys(KEYS, 0) | {"segmentation": rles()[0], "area": 3}
    entry = {"id": 1, "image_id": 1, **mask}
    info = {"version": __version__, "model": model, "made_from": {"weights": "w"}}
    yield as_json({"info": info, "images": [image], "annotations": [entry]})


def transformers_configs() -> Iterator[bytes]:
    yield as_json(transformers_config(nano.CONFIG))
    yield as_json({"model_type": "sam2_video"})


def indexes() -> Iterator[bytes]:
    yield as_json({"metadata": {"total_size": 1}, "weight_map": {name: "part.safetensors" for name in weights()}})


SHORT_RECIPE = b"""
scratch: {resolution: 64, lr: "${divide:1,${times:4,5}}", size: "${int:3.5}", sizes: "${range:3}"}
trainer:
  _target_: training.trainer.Trainer
  mode: train_only
  max_epochs: 2
  model: {_target_: training.model.sam2.SAM2Train, image_encoder: {trunk: {weights_path: x}}}
  data: {train: {_target_: training.dataset.sam2_datasets.TorchTrainMixedDataset, datasets: [], batch_sizes: []}}
  optim: {amp: {enabled: true}, options: {lr: [{scheduler: {value: "${scratch.lr}"}}]}}
  logging: {tensorboard_writer: {_target_: x}}
  checkpoint: {save_dir: x, model_weight_initializer: null}
launcher: {num_nodes: 1, gpus_per_node: 2}
submitit: {use_cluster: true, partition: a}
"""


def models() -> Iterator[bytes]:
    for name, file in sorted(shipped_configs().items()):
        if name.startswith(("nano/", "sam2.1/sam2.1_hiera_b")):
            yield file.read_bytes()
    yield b"base_config: configs/sam2.1/sam2.1_hiera_t.yaml\nmodel:\n  image_size: 512\n"


def recipes() -> Iterator[bytes]:
    """Our recipe, the official recipe, and a short one for their distinction."""
    shipped = shipped_recipes()
    for name in ("nano/sam2fast_nano_own_masks", "sam2.1_training/sam2.1_hiera_b+_lora"):
        yield shipped[name].read_bytes()
    (folder,) = importlib.util.find_spec("sam2").submodule_search_locations
    yield (Path(folder) / "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml").read_bytes()
    yield SHORT_RECIPE
