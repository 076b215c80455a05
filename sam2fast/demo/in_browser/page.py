"""Writes the web demo as a folder for any file server: page, model, its runtime, and a gallery."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sam2fast import __version__
from sam2fast.demo.in_browser.runtime import BUNDLE, PINNED, write_runtime
from sam2fast.demo.server.gallery import fill_gallery
from sam2fast.demo.server.library import GALLERY, POSTERS, Library, LibraryVideo
from sam2fast.deploy.exported.artifact import check_folder, record_of, size_of
from sam2fast.deploy.onnx import write_onnx
from sam2fast.io.atomic import filled
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

INDEX = "index.html"
IN_BROWSER = "in_browser"  # folder of what runs the model
SETTINGS = f"{IN_BROWSER}/settings.json"


def write_page(
    model: SAM2VideoPredictor,
    folder: str | Path,
    name: str,
    config: str | None = None,
    dtype: str = "float32",
    progress: Callable[[str], None] = lambda text: None,
    made_from: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Writes the page atomically.

    Args:
        model: on the CPU, with fp32 weights.
        folder: must be empty or not exist.
        name: the model's name, shown on the page.
        config: the configuration's name, for the model's manifest.
        dtype: dtype of the weights, see :func:`sam2fast.deploy.onnx.write_onnx`.
        progress: receives a sentence before each step.
        made_from: see :func:`sam2fast.deploy.exported.artifact.record_of`.

    Returns:
        The size in bytes of each file and folder in it.

    Raises:
        FileExistsError: the folder is not empty, or is a file.
        RuntimeFetchError: onnxruntime-web cannot be fetched.
        ValueError: The model's stride is not 16 pixels.
        ImportError, ValueError, RuntimeError, OSError: see :func:`sam2fast.deploy.onnx.write_onnx`.
    """
    if model.backbone_stride != 16:
        raise ValueError(
            f"the page runs models with a stride of 16 pixels, so not SAM 3, and {name} has a stride of "
            f"{model.backbone_stride}: export it with --format onnx"
        )
    with filled(check_folder(folder), INDEX) as partial:
        progress("fetching onnxruntime-web")
        write_runtime(partial / IN_BROWSER / "runtime")
        write_onnx(model, partial / IN_BROWSER / "model", config, dtype, progress)
        progress("making the gallery")
        with TemporaryDirectory() as workspace:
            library = Library(Path(workspace))
            fill_gallery(library.root / GALLERY, library.incoming)
            videos = library.gallery()
            for part in (GALLERY, POSTERS):
                shutil.copytree(library.root / part, partial / part)
        shutil.copytree(BUNDLE, partial, dirs_exist_ok=True)
        (partial / PINNED.name).unlink()
        (partial / INDEX).write_text(_without_server((BUNDLE / INDEX).read_text(encoding="utf-8")), encoding="utf-8")
        settings = {**settings_of(name, model.image_size, videos), **record_of(partial, made_from)}
        (partial / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return {path.name: size_of(path) for path in sorted(partial.iterdir())}


def page_key(model: Mapping[str, Any]) -> str:
    """A hash of what a page is made of: this package, its front end, and the fingerprint of the model."""
    content = [__version__, *((BUNDLE / name).read_text(encoding="utf-8") for name in (INDEX, PINNED.name)), model]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def settings_of(model: str, image_size: int, videos: Sequence[LibraryVideo]) -> dict[str, Any]:
    """The settings that a page with a server gets from the server."""
    listed = [
        {"path": video.path, "posterPath": video.poster, "width": video.width, "height": video.height}
        for video in videos
    ]
    return {"model": model, "imageSize": image_size, "videos": listed}


def _without_server(page: str) -> str:
    """The page with relative addresses, and with the name of the folder that it loads the model from."""
    relative = re.sub(r'(src|href)="/', r'\1="./', page)
    return relative.replace("<head>", f'<head>\n    <meta name="sam2fast-in-browser" content="{IN_BROWSER}/" />', 1)
