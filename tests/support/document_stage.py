"""A folder in which the documents' code runs unchanged: every model is nano at a quarter of its pixels."""

import json
import os
import shutil
import sys
from pathlib import Path

import mini_model
import moving_shapes
import numpy as np
import pytest
import small_training
import torch
import training_sets
from annotated_videos import write_sav
from mask_sets import draw_labels, write_davis
from mask_sets import write_sav as write_sav_pngs
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from small_nano import write_small_nano

from sam2fast import config, nano
from sam2fast._official_names import RELEASES
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.downloads.catalog import short_name
from sam2fast.io.rle import encode_rle
from sam2fast.training.adapters import AdapterConf, add_adapters, save_adapters
from sam2fast.training.config import load_training_config

HEIGHT, WIDTH, FRAMES = 576, 720, 5
IMAGES = ("photo.jpg", "truck.jpg", "another.jpg", "a.jpg", "b.jpg", "photos/1.jpg", "photos/2.jpg")
VIDEOS = ("clip.mov", "dog.mp4", "a.mp4", "b.mp4")
WEIGHTS = ("finetuned.pt", "runs/7/best.pt", "runs/nano_own_masks/checkpoints/averaged.pt")


def write_stage(folder: Path) -> Path:
    """The files that the documents name; created once and copied for each page."""
    frames = moving_shapes.make_frames(FRAMES, HEIGHT, WIDTH)
    moving_shapes.write_video(folder / "clip.mp4", frames)
    for name in VIDEOS:
        shutil.copy(folder / "clip.mp4", folder / name)
    for name in IMAGES:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(frames[0]).save(folder / name)
    Image.fromarray(frames[0]).resize((1800, 1200)).save(folder / "truck.jpg")  # the size that prompts are for
    _write_weights(folder)
    _write_adapters(folder)
    _write_data_sets(folder)
    _write_training(folder)
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, (200, 300, 320, 420))
    mask.save(folder / "dog.png")
    click = {"frame": 0, "object": 1, "points": [[350, 300], [360, 420]], "labels": [1, 0]}
    prompts = {"prompts": [click, {"frame": 3, "object": "dog", "mask": "dog.png"}]}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    found = {"category_id": 1, "bbox": [200, 300, 120, 120], "score": 0.9}
    (folder / "detections.json").write_text(json.dumps([{"image_id": 0, **found}]))
    (folder / "det.txt").write_text("1,-1,200,300,120,120,0.9,-1,-1,-1\n")
    cup, dog = {"object": "cup", "points": [[350, 300]]}, {"object": "dog", "image": "2", "mask": "dog.png"}
    (folder / "objects.json").write_text(json.dumps({"prompts": [cup, dog]}))
    return folder


def _write_weights(folder: Path) -> None:
    weights = load_file(nano.WEIGHTS)
    torch.save({"model": weights}, folder / "averaged.pt")
    torch.save({"model": weights}, folder / "FILE")  # what stands for the path that a command in $() prints
    # With the wrapper and names of a foreign trainer.
    wrapped = {f"model.{name.replace('trunk', 'backbone')}": value for name, value in weights.items()}
    torch.save({"model": wrapped}, folder / "wrapped.pt")
    convert_checkpoint(nano.WEIGHTS, folder / "their-finetuned-sam2.1", "transformers")
    for model in ("their-finetuned-sam2.1", "fine-tune"):
        cached = folder / "cache" / f"models--someone--{model}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder / "their-finetuned-sam2.1", cached / "snapshots" / ("0" * 40))
    # For what takes long with nano.
    OmegaConf.save(config.load_config(nano.CONFIG, mini_model.OVERRIDES), folder / "narrow.yaml")
    torch.save({"model": mini_model.mini_model().state_dict()}, folder / "narrow.pt")
    published = sorted({release.checkpoint for release in RELEASES.values()})
    for name in [*published, *(f"checkpoints/{name}" for name in published), *WEIGHTS]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / "averaged.pt", folder / name)


def _write_adapters(folder: Path) -> None:
    adapters, model = AdapterConf(rank=2, alpha=4), build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu")
    add_adapters(model, adapters)
    save_adapters(model, adapters, folder / "adapters")


def _write_training(folder: Path) -> None:
    """A user's configuration: one update of a narrow model."""
    changes = small_training.overrides(Path("runs/mine"), "scratch.updates=1", "+trainer.mode=train_only")
    OmegaConf.save(load_training_config(small_training.RECIPE, changes), folder / "my_training.yaml")


def _write_data_sets(folder: Path) -> None:
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, (48, 64), [1, 2], frames=4)
    for root, below in (("", ""), ("DAVIS/", "/480p"), ("MOSE/train/", "")):
        videos, masks = f"{root}JPEGImages{below}", f"{root}Annotations{below}"
        for t in range(4):
            training_sets.write_image(folder / videos / "bear" / f"{t:05d}.jpg", rng, (48, 64))
        write_davis(folder / masks / "bear", labels)
    for same in ("PRED", "GT", "out/davis"):
        shutil.copytree(folder / "Annotations", folder / same)
    for same in ("sav_val/Annotations_6fps", "out/sav_val"):
        write_sav_pngs(folder / same / "sav_000001", labels, [0, 1])
    for t in range(13):  # at 24 frames per second, the masks at 6
        training_sets.write_image(folder / f"sav_val/JPEGImages_24fps/sav_000001/{t:05d}.jpg", rng, (48, 64))
    (folder / "sav_val" / "sav_val.txt").write_text("sav_000001\n")
    (folder / "val.txt").write_text("bear\n")
    for kind in ("manual", "auto"):
        write_sav(folder / "SAV", "sav_000001", kind=kind, frames=11)
    training_sets.write_video(folder / "SAV" / "sav_000001.mp4", frames=41)
    training_sets.write_sa1b(folder / "sa_000020", numbers=(3,), objects=2)
    of_coco = range(101, 105)  # the images of instances.json, a batch whose numbers no script of the documents writes
    for root, numbers in (("", (1, *of_coco)), ("held_out", (1, 2))):
        for number in numbers:
            training_sets.write_image(folder / root / "images" / f"{number:03d}.jpg", rng, (48, 64))
            target = folder / root / "masks" / f"{number:03d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels[number % 4]).save(target)
    _write_coco(folder / "instances.json", tuple(f"{number}.jpg" for number in of_coco), (48, 64))
    training_sets.write_image(folder / "val2017" / "1.jpg", rng, (HEIGHT, WIDTH))
    _write_coco(folder / "annotations.json", ("1.jpg", "2.jpg"))
    _write_coco(folder / "instances_val2017.json", ("1.jpg",))


def _write_coco(file: Path, names: tuple[str, ...], size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """One object in each of these images of ``(height, width)``."""
    height, width = size
    mask = np.zeros(size, dtype=bool)
    mask[20:60, 20:80] = True
    shape = {"segmentation": encode_rle(mask), "area": int(mask.sum()), "category_id": 1, "bbox": [20, 20, 60, 40]}
    images = [{"id": i, "file_name": name, "height": height, "width": width} for i, name in enumerate(names)]
    objects = [{"id": i, "image_id": i, **shape} for i in range(len(names))]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "leaf"}]}
    file.write_text(json.dumps(content))


def go_to(stage: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a copy of the stage the working folder, without GPU and network."""
    shutil.copytree(stage, folder, copy_function=_copy, dirs_exist_ok=True)
    patch.chdir(folder)
    sys.path.append(str(folder))  # where a script finds modules beside it; not undone, as libraries append theirs
    for name in ("SAM2FAST_CACHE", "HF_HUB_CACHE", "HF_HOME"):
        patch.setenv(name, str(folder / "cache"))
    patch.setenv("SAM2FAST_CHECKPOINTS", str(folder / "checkpoints"))
    patch.setenv("SAM2FAST_MIRROR", "http://127.0.0.1:9/")
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))  # which it reads when it is imported
    _name_nano_as_all_models(folder, patch)


def _copy(source: str, target: str) -> None:
    """Links weights, which are only read, instead of copying them."""
    (os.link if source.endswith((".pt", ".safetensors")) else shutil.copy)(source, target)


def _name_nano_as_all_models(folder: Path, patch: pytest.MonkeyPatch) -> None:
    small = Path(write_small_nano(folder / "small_nano.yaml"))
    names = ["nano/sam2fast_nano", *(short_name(release.config) for release in RELEASES.values())]
    files = config._shipped_files() | dict.fromkeys(names, small)
    patch.setattr(config, "_shipped_files", lambda: files)
