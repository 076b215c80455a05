"""Valid images, videos and weights that lie beside the mutated files."""

from pathlib import Path

import seeds_media
import seeds_texts
import seeds_weights
from safetensors.torch import save


def put(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def with_image(folder: Path) -> None:
    """Writes ``image.png`` and its mask."""
    put(folder, "image.png", [*seeds_media.images()][4])
    put(folder, "truth.png", next(seeds_media.masks()))


def with_frames(folder: Path) -> None:
    """Writes two frames into ``frames``; the second will be mutated."""
    put(folder, "frames/00000.png", [*seeds_media.images()][4])


def with_weights(folder: Path) -> None:
    """Writes the shards of an index, and a forbidden file."""
    put(folder, "part.safetensors", save(seeds_weights.weights()))
    put(folder, "../outside/secret", save(seeds_weights.secret()))


def with_adapters(folder: Path) -> None:
    """Writes both files of adapters; one will be mutated."""
    put(folder, "adapter_model.safetensors", seeds_weights.adapters())
    put(folder, "adapter_config.json", next(seeds_weights.adapter_configs()))


def with_transformers(folder: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in seeds_weights.transformers_like().items()}
    put(folder, "model.safetensors", save(tensors, {"format": "pt"}))


def davis(folder: Path) -> None:
    """Writes a data set in DAVIS's layout; its second mask will be mutated."""
    for frame in ("00000", "00001"):
        put(folder, f"JPEGImages/clip/{frame}.jpg", next(seeds_media.images()))
        put(folder, f"Annotations/clip/{frame}.png", next(seeds_media.masks()))


def youtube(folder: Path) -> None:
    davis(folder)
    put(folder, "meta.json", next(seeds_texts.ytvos()))


def sa1b(folder: Path) -> None:
    put(folder, "images/sa_1.jpg", next(seeds_media.images()))


def sav(folder: Path) -> None:
    put(folder, "videos/sav_000001.mp4", next(seeds_media.videos()))


def secret(folder: Path) -> None:
    """Files that a playlist must not lead to: beside it, and where paths without a folder would find them."""
    content, segment = (
        seeds_media.video(form, codec, {}, "yuv420p", {}, size=seeds_media.SECRET_SIZE)
        for form, codec in (("mp4", "mpeg4"), ("mpegts", "mpeg2video"))
    )
    for place in (folder, folder.parent):
        put(place, "secret.mp4", content)
        put(place, "../outside/secret.ts", segment)
