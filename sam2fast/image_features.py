"""Computes and stores embeddings of images. Embeddings can be moved between devices, and saved."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sam2fast.engine import replay
from sam2fast.io.atomic import atomic_write
from sam2fast.modeling.model_identity import known_facts
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.transforms import ImageLike, SAM2Transforms, to_pixels

__all__ = ["Features"]

FACTS = "sam2fast_features"  # key of the metadata in a safetensors file
VERSION = 1
EMBEDDING, LEVELS = "image_embed", "high_res_feats"  # keys as in the official package


class Features:
    """Read-only embedding of one image, returned by :meth:`SAM2ImagePredictor.encode`.

    If the model's input has 1024 x 1024 pixels, the embedding takes 16 MiB, or 10 MiB in bfloat16.

    Attributes:
        tensors: Dict of ``image_embed``, the embedding ``(1, C, h, h)``, and ``high_res_feats``, a list of
            high-resolution features ``(1, C/8, 4h, 4h)`` and ``(1, C/4, 2h, 2h)``.
        size: Size (H, W) of the image.
    """

    def __init__(
        self, tensors: dict[str, Any], size: tuple[int, int], facts: dict[str, Any], model: SAM2Base | None = None
    ) -> None:
        self.tensors = tensors
        self.size = size
        self._facts = facts  # values from facts_of, which identify the model
        self._model = (lambda: None) if model is None else weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "size": self.size, "facts": self._facts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        """Returns the device of the tensors."""
        return self.tensors[EMBEDDING].device

    def to(self, device: torch.device | str) -> "Features":
        """Returns the same features on ``device``."""
        tensors = {EMBEDDING: self.tensors[EMBEDDING].to(device), LEVELS: [x.to(device) for x in self.tensors[LEVELS]]}
        return Features(tensors, self.size, self._facts, self._model())

    def check(self, model: SAM2Base) -> None:
        """Checks that the features belong to the model and are on the model's device.

        Raises:
            ValueError: If the features come from another model, or are on another device.
        """
        if self._model() is not model and self._facts != (facts := facts_of(model)):
            pairs = ((name, str(self._facts.get(name)), str(value)) for name, value in facts.items())
            differing = ", ".join(f"{name} {old:.12}, not {new:.12}" for name, old, new in pairs if old != new)
            raise ValueError(f"the features come from another model: {differing}; encode the image again")
        if self.device != model.device:
            raise ValueError(f"the features are on {self.device}; move them: features.to({str(model.device)!r})")

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file atomically.

        Raises:
            OSError: If the file cannot be written. The error names ``path``.
        """
        from safetensors.torch import save

        levels = {f"{LEVELS}.{i}": level for i, level in enumerate(self.tensors[LEVELS])}
        tensors = {name: x.cpu().contiguous() for name, x in {EMBEDDING: self.tensors[EMBEDDING], **levels}.items()}
        facts = json.dumps({"version": VERSION, "size": self.size, "model": self._facts})
        with atomic_write(Path(path)) as file:
            file.write(save(tensors, metadata={FACTS: facts}))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Features":
        """Reads a file that :meth:`save` wrote. Runs no code from the file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file does not contain features, or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r}")
        try:
            with safe_open(path, framework="pt") as content:
                facts = json.loads((content.metadata() or {})[FACTS])
                # Tensors are cloned, because safetensors maps the file into memory, so changes of the file would show.
                loaded = {name: content.get_tensor(name).clone() for name in sorted(content.keys())}
            height, width = facts["size"]
            tensors = {EMBEDDING: loaded.pop(EMBEDDING), LEVELS: list(loaded.values())}
            sides = [x.shape[0] * x.shape[2] for x in (*tensors[LEVELS], tensors[EMBEDDING])]
            S, n = facts["model"]["image_size"], sides[-1]
            have_sizes = min(height, width) >= 1 and S in (14 * n, 16 * n) and sides in ([4 * n, 2 * n, n], [n])
            if facts["version"] != VERSION or not have_sizes:
                raise ValueError("another version, or wrong sizes")
        except (SafetensorError, LookupError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a features file saved by sam2fast, or is damaged: {error}") from error
        return cls(tensors, (height, width), facts["model"]).to(device)


def encode_images(
    images: Sequence[ImageLike], model: SAM2Base, transforms: SAM2Transforms, fast: bool | None
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Encodes B images. Returns ``tensors`` of :class:`Features`, with batch dimension B, and the sizes (H, W).

    ``engine/replay.py`` defines ``fast``.
    """
    pixels = [to_pixels(image) for image in images]
    batch = torch.stack([transforms.from_pixels(p, model.device) for p in pixels])
    *high_res, embedding = replay.encode(model, fast, batch)
    if model.directly_add_no_mem_embed:
        embedding = embedding + model.no_mem_embed.reshape(1, -1, 1, 1)
    return {EMBEDDING: embedding, LEVELS: high_res}, [(p.shape[0], p.shape[1]) for p in pixels]


def facts_of(model: Any) -> dict[str, Any]:
    """Returns values that identify a model, or the model of an exported artifact."""
    if isinstance(model, SAM2Base):
        return known_facts(model)
    return {"image_size": model.image_size, "weights": model.metadata.weights}
