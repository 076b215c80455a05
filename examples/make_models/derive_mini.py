"""Cuts the image path of SAM 2 tiny down to mini's.

    python derive_mini.py sam2_hiera_tiny.pt image.pt --photographs FOLDER

The fourth stage of the trunk is removed, and with it the coarsest level of the neck. The neck added that level to the
next one, which gets the bias of the removed convolution. The next level's projection is then fitted, so that its result
comes as near as possible to tiny's sum of both levels on crops of the photographs in ``mini_refit.txt``.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints import CheckpointError, read_checkpoint
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.checkpoints.writing import write_official
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

TINY = "configs/sam2/sam2_hiera_t.yaml"
BLOCKS = 10  # of the trunk's twelve: stages of 1, 2 and 7 blocks
TRUNK, NECK = "image_encoder.trunk.blocks.", "image_encoder.neck.convs."
SCORE = "sam_mask_decoder.pred_obj_score_head.layers.2."
PHOTOGRAPHS = Path(__file__).with_name("mini_refit.txt")  # names in FOLDER, as their packages install them
# Two crops of a photograph at the size of videos, one at that of images. Tiny with mini's windows.
SIZES, WINDOWS = (512, 768, 512), "[8,4,16,8]"
LONGEST, SMALLEST, FLATTEST = 2000, 180, 15  # sides of photographs and crops in pixels, deviation of grey values
ASPECTS, SHARES = (4 / 3, 3 / 4, 3 / 2, 1.0), (1.0, 0.75, 0.5, 0.35)
RIDGE = 1e-2  # of the mean variance of a channel


def derive(tiny: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of mini's image path, fp32, by official names.

    Args:
        tiny: the weights of ``sam2_hiera_tiny`` by official names; those for video are not used.

    Raises:
        CheckpointError: these are not tiny's weights.
    """
    if f"{TRUNK}11.attn.qkv.weight" not in tiny or f"{NECK}3.conv.weight" not in tiny:
        raise CheckpointError("expected the weights of SAM 2 tiny: a trunk of twelve blocks and a neck of four levels")
    weights = {}
    for name, weight in tiny.items():
        if is_video_only(name) or (name.startswith(TRUNK) and int(name.removeprefix(TRUNK).split(".")[0]) >= BLOCKS):
            continue
        if name.startswith(NECK):
            level, rest = name.removeprefix(NECK).split(".", 1)
            if level == "0":
                continue
            name = f"{NECK}{int(level) - 1}.{rest}"
        weights[name] = weight.float()
    # An object is present until the head of object scores is trained: masks of absent objects get no gradient.
    weights[f"{SCORE}weight"], weights[f"{SCORE}bias"] = torch.zeros(1, 256), torch.full((1,), 4.0)
    weights[f"{NECK}0.conv.bias"] = weights[f"{NECK}0.conv.bias"] + tiny[f"{NECK}0.conv.bias"].float()
    return weights


def refit(weights: Mapping[str, Tensor], tiny: Path, photographs: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """The fitted projection ``(256, 384, 1, 1)`` and its bias ``(256,)``, fp32.

    They minimise the squared distance from tiny's embedding, plus a ridge that draws them to the derived projection.

    Args:
        weights: the derived ones.
        tiny: the weights of ``sam2_hiera_tiny``.
        photographs: the images to fit on.
    """
    teachers = {size: _teacher(tiny, size) for size in sorted(set(SIZES))}
    inputs = weights[f"{NECK}0.conv.weight"].shape[1]
    squares = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
    products = torch.zeros(inputs + 1, 256, dtype=torch.float64)
    for number, path in enumerate(tqdm(photographs)):
        for crop, size in zip(_crops(path, np.random.default_rng(number)), SIZES, strict=False):
            teacher = teachers[size]
            levels = teacher.model.image_encoder.trunk(teacher._transforms(np.asarray(crop))[None])
            x = levels[2][0].flatten(1).t().double()
            y = teacher.model.image_encoder.neck(levels)[0][2][0].flatten(1).t().double()
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
            squares += x.t() @ x
            products += x.t() @ y
    return fit(squares, products, weights[f"{NECK}0.conv.weight"])


def fit(squares: Tensor, products: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """The ridge regression around ``prior (N, C, 1, 1)``, of sums of products over all positions.

    Args:
        squares: ``(C + 1, C + 1)`` fp64 of the inputs with a one after the last channel.
        products: ``(C + 1, N)`` fp64 of these and the outputs.
    """
    before, count = prior.flatten(1).double().t(), squares[-1, -1]
    mean_in, mean_out = squares[-1, :-1] / count, products[-1] / count
    covariance = squares[:-1, :-1] / count - mean_in.outer(mean_in)
    left = products[:-1] / count - mean_in.outer(mean_out) - covariance @ before
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    weight = before + torch.linalg.solve(covariance + ridge, left)
    return weight.t().float().view_as(prior).contiguous(), (mean_out - mean_in @ weight).float()


def _teacher(tiny: Path, size: int) -> SAM2ImagePredictor:
    windows = f"++model.image_encoder.trunk.window_spec={WINDOWS}"
    return SAM2ImagePredictor(build_sam2(TINY, tiny, "cpu", hydra_overrides_extra=[windows], image_size=size))


def _crops(path: Path, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Up to three crops of a photograph: one as large as its aspect allows, and smaller ones."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    for shares in ((1.0,), SHARES, SHARES):
        aspect = rng.choice(ASPECTS)
        height = min(image.height, image.width / aspect) * rng.choice(shares)
        width = height * aspect
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        crop = image.crop((int(left), int(top), int(left + width), int(top + height)))
        if max(crop.size) >= SMALLEST and np.asarray(crop.convert("L")).std() >= FLATTEST:
            yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiny", type=Path, help="weights of sam2_hiera_tiny")
    parser.add_argument("out", type=Path, help="a .pt file")
    parser.add_argument("--photographs", type=Path, help="the folder of the names in mini_refit.txt; without: no fit")
    arguments = parser.parse_args()
    derived = derive(read_checkpoint(arguments.tiny))
    if arguments.photographs:
        names = PHOTOGRAPHS.read_text(encoding="utf-8").splitlines()
        with torch.inference_mode():
            fitted = refit(derived, arguments.tiny, [arguments.photographs / name for name in names])
        derived[f"{NECK}0.conv.weight"], derived[f"{NECK}0.conv.bias"] = fitted
    write_official(derived, arguments.out)
