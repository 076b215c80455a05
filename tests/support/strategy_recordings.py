"""Recordings of published trackers in ``tests/strategies/recorded``: their clip, their weights, and what they hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from plain_strategies import Attended, Decoded
from safetensors.torch import load_file
from torch import nn

from sam2fast import nano

FOLDER = Path(__file__).parents[1] / "strategies" / "recorded"
IMAGE_SIZE, HEIGHT, WIDTH, FRAMES = 128, 90, 120, 40
EVERY = 6  # frames from one whose logits are kept to the next
STARTS, SPEEDS, RADIUS = ((20, 40), (100, 48)), (4, -4), 14
AWAY, JUMP = range(14, 19), 30  # the first disc's, and how far down it returns
# Make the official configuration of SAM 2.1 tiny nano's, at any size.
LAYER = "++model.memory_attention.layer"
NANO_LAYERS = (
    "++model.image_encoder.trunk.embed_dim=32",
    "++model.image_encoder.trunk.stages=[1,2,6,1]",
    "++model.image_encoder.trunk.global_att_blocks=[4,6,8]",
    "++model.image_encoder.trunk.window_spec=[8,4,8,4]",
    "++model.image_encoder.neck.d_model=128",
    "++model.image_encoder.neck.position_encoding.num_pos_feats=128",
    "++model.image_encoder.neck.backbone_channel_list=[256,128,64,32]",
    "++model.memory_attention.d_model=128",
    "++model.memory_attention.num_layers=3",
    f"{LAYER}.d_model=128",
    f"{LAYER}.dim_feedforward=512",
    *(f"{LAYER}.{kind}_attention.embedding_dim=128" for kind in ("self", "cross")),
    "++model.memory_encoder.in_dim=128",
    "++model.memory_encoder.mask_downsampler.embed_dim=128",
    "++model.memory_encoder.fuser.layer.dim=128",
)
NANO = [
    *(f"++model.image_size={IMAGE_SIZE}", *NANO_LAYERS),
    *(f"{LAYER}.{kind}_attention.feat_sizes=[8,8]" for kind in ("self", "cross")),
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """What a recording was made of; ``iou`` and ``score`` are added to biases, for values around the thresholds."""

    tracker: str  # samurai or d4sm
    prompt: str  # box, click or mask
    objects: int = 1
    iou: float = 0.0
    score: float = 0.0

    def weights(self, model: ModuleT) -> ModuleT:
        """Overwrites those of a model of nano's architecture."""
        weights = load_file(nano.WEIGHTS)
        weights["sam_mask_decoder.iou_prediction_head.layers.2.bias"] += self.iou
        weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += self.score
        model.load_state_dict(weights)
        return model

    def prompt_of(self, obj: int) -> dict[str, Any]:
        """The prompt on a disc, as arguments of ``add_new_points_or_box``, or of ``add_new_mask``."""
        if self.prompt == "mask":
            return {"mask": disc(0, obj)}
        x, y = STARTS[obj]
        if self.prompt == "click":
            return {"points": [[x, y]], "labels": [1]}
        return {"box": [x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS]}


RECIPES = {
    "samurai_box": Recipe("samurai", "box"),
    "samurai_click": Recipe("samurai", "click", iou=-1.3, score=-6.0),
    "d4sm": Recipe("d4sm", "mask", objects=2, iou=0.8, score=-4.0),
}


@dataclass(frozen=True)
class Recording:
    """What a published tracker did with O objects on T frames, the prompted one included; see the README there."""

    masks: NDArray[np.float32]  # (T, O, 3, h, w) the decoder's, exact beside outlines, elsewhere 1 or -1
    ious: NDArray[np.float32]  # (T, O, 3)
    scores: NDArray[np.float32]  # (T, O)
    chosen: NDArray[np.int8]  # (T, O), -1 on a frame without three candidates
    memories: NDArray[np.int16]  # (T, O, K, 2) frames and rows, filled up with -1
    pointers: NDArray[np.int16]  # (T, O, L) frames, filled up with -1
    positions: NDArray[np.float32]  # (T, O, L)
    logits: NDArray[np.float32]  # (ceil(T / EVERY), O, h, w) of the shown masks
    state: NDArray[np.float64]  # (T, O, ...): the Kalman mean and stable frames; or whether a distractor was added

    @classmethod
    def load(cls, name: str) -> "Recording":
        with np.load(FOLDER / f"{name}.npz") as arrays:
            return cls(**arrays)

    def decoded(self, frame: int, obj: int) -> Decoded:
        return Decoded(self.masks[frame, obj], self.ious[frame, obj], float(self.scores[frame, obj]))

    def attended(self, frame: int, obj: int) -> Attended:
        """Both parts sorted, as attention does not know an order."""
        memories = [(t, row) for t, row in self.memories[frame, obj].tolist() if t >= 0]
        pairs = zip(self.pointers[frame, obj].tolist(), self.positions[frame, obj].tolist(), strict=True)
        return Attended(sorted(memories), sorted(pair for pair in pairs if pair[0] >= 0))


def disc_at(frame: int, obj: int) -> tuple[int, int] | None:
    """Centre (x, y) of the disc, or the one that looks like it; None while it is away."""
    if obj == 0 and frame in AWAY:
        return None
    x, y = STARTS[obj]
    down = JUMP if obj == 0 and frame >= AWAY.start else 0
    return (x + SPEEDS[obj] * frame) % WIDTH, (y + down) % HEIGHT


def disc(frame: int, obj: int) -> NDArray[np.bool_]:
    """Its pixels ``(H, W)``, also those that the other hides."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    centre = disc_at(frame, obj)
    return np.zeros(x.shape, dtype=bool) if centre is None else (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < RADIUS**2


def strategy_clip() -> list[NDArray[np.uint8]]:
    """Two striped discs cross; the first is away for some frames and returns elsewhere."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ground = np.stack([np.sin(x / 9 + y / 7), np.cos(x / 5 - y / 11), np.sin(y / 6)], axis=-1) * 50 + 120
    stripes = np.stack([230 - 60 * (x // 4 % 2), 60 + 0 * x, 40 + 90 * (y // 4 % 2)], axis=-1)
    images = []
    for t in range(FRAMES):
        image = ground + rng.normal(0, 4, ground.shape)
        for obj in range(len(STARTS)):
            image[disc(t, obj)] = stripes[disc(t, obj)]
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


def write_frames(folder: Path, images: Sequence[NDArray[np.uint8]]) -> Path:
    """A folder as the official predictor reads it, whose frames lose nothing: PNG under the names that it asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{t:05d}.jpg", "PNG")
    return folder


def beside_outlines(masks: Any) -> NDArray[np.float32]:
    """Logits ``(..., h, w)`` that, enlarged, are positive exactly where the given ones are, and compress well."""
    masks = np.asarray(masks, dtype=np.float32)
    inside = torch.from_numpy(masks > 0).float().reshape(-1, 1, *masks.shape[-2:])
    grown = nn.functional.max_pool2d(inside, 3, 1, 1)
    shrunk = -nn.functional.max_pool2d(-inside, 3, 1, 1)
    outlines = (grown != shrunk).numpy().reshape(masks.shape)
    return np.where(outlines, masks, np.where(masks > 0, 1, -1)).astype(np.float32)
