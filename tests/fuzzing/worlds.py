"""What lies beside the files that are read: pictures, films and models that are as they should be."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import seeds_media
import seeds_texts
import seeds_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

# A film in memory, which a saved state is of.
FILM = [np.random.default_rng(i).integers(0, 255, (128, 128, 3), dtype=np.uint8) for i in range(2)]


@cache
def mini_predictor() -> Any:
    """For video, as small as they get."""
    import mini_model

    return mini_model.mini_predictor()


def put(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def with_picture(folder: Path) -> None:
    """``picture.png``, and a mask of it beside it."""
    put(folder, "picture.png", first(seeds_media.images(), 4))
    put(folder, "truth.png", next(seeds_media.masks()))


def with_frames(folder: Path) -> None:
    """Two frames in ``frames``, of which the second is to be mutated."""
    put(folder, "frames/00000.png", first(seeds_media.images(), 4))


def with_weights(folder: Path) -> None:
    """The parts that an index names, and what it must not reach."""
    from safetensors.torch import save

    put(folder, "part.safetensors", save(seeds_weights.weights()))
    put(folder, "../outside/secret", save(seeds_weights.secret()))


def with_transformers(folder: Path) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in seeds_weights.transformers_like().items()}
    put(folder, "model.safetensors", save(tensors, {"format": "pt"}))


def davis(folder: Path) -> None:
    """A data set in DAVIS's layout, of which the second mask is to be mutated."""
    for frame in ("00000", "00001"):
        put(folder, f"JPEGImages/clip/{frame}.jpg", next(seeds_media.images()))
        put(folder, f"Annotations/clip/{frame}.png", next(seeds_media.masks()))


def youtube(folder: Path) -> None:
    davis(folder)
    put(folder, "meta.json", next(seeds_texts.ytvos()))


def sa1b(folder: Path) -> None:
    put(folder, "images/sa_1.jpg", next(seeds_media.images()))


def sav(folder: Path) -> None:
    put(folder, "videos/sav_000001.mp4", next(seeds_media.films()))


def secret(folder: Path) -> None:
    """Beside a list of films: what a video file must not lead to; and where bytes would find it that have no folder."""
    content, segment = (
        seeds_media.film(form, codec, {}, "yuv420p", {}, size=seeds_media.SECRET_SIZE)
        for form, codec in (("mp4", "mpeg4"), ("mpegts", "mpeg2video"))
    )
    for place in (folder, folder.parent):
        put(place, "secret.mp4", content)
        put(place, "../outside/secret.ts", segment)


def first(items: Any, position: int) -> bytes:
    return list(items)[position]
