"""Builds SAM 2 models by official configuration name and checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from sam2fast import nano
from sam2fast._official_names import RELEASES
from sam2fast.checkpoints import load_checkpoint
from sam2fast.config import ConfigError, build_from_config, load_config
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# The original's table: Hugging Face id -> (configuration, checkpoint file).
HF_MODEL_ID_TO_FILENAMES = {name: (release.config, release.checkpoint) for name, release in RELEASES.items()}

# What apply_postprocessing adds. It comes after the caller's overrides and wins over them, as in the original.
IMAGE_POSTPROCESSING = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
)
VIDEO_POSTPROCESSING = (
    *IMAGE_POSTPROCESSING,
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.fill_hole_area=8",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def build_sam2(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    dtype: torch.dtype | None = None,
    allow_targets: Sequence[str] = (),
    **kwargs: Any,
) -> SAM2Base:
    """Builds a model for images.

    Args:
        config_file: see :func:`sam2fast.config.load_config`.
        ckpt_path: ``.pt`` or ``.safetensors``; none for untrained weights. A file that has only the weights that
            images need is accepted with a logged note.
        device: where the model goes; ``auto`` takes CUDA, else MPS, else the CPU.
        mode: ``eval``, or anything else for training mode.
        hydra_overrides_extra: changes to the configuration, such as ``++model.image_size=512``.
        apply_postprocessing: falls back to the best of three masks where the single one has an uncertain outline.
        dtype: casts the weights of matrix products and convolutions once; norms, softmax and mask logits stay fp32.
            None leaves them fp32, to be used as they are or under autocast.
        allow_targets: see :func:`sam2fast.config.build_from_config`.
        **kwargs: ignored, as in the original, so that one set of arguments can serve model and predictor.

    Raises:
        FileNotFoundError: no such configuration or checkpoint.
        ConfigError: a configuration or override that cannot be used.
        CheckpointError: a checkpoint that cannot be read or does not fit.
        RuntimeError: the device is not available.
        ValueError: a dtype that the device cannot compute in.
    """
    overrides = [*hydra_overrides_extra, *(IMAGE_POSTPROCESSING if apply_postprocessing else ())]
    model = _build(config_file, ckpt_path, device, overrides, dtype, allow_targets)
    return model.eval() if mode == "eval" else model.train()


def build_sam2_video_predictor(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    dtype: torch.dtype | None = None,
    allow_targets: Sequence[str] = (),
    **kwargs: Any,
) -> SAM2VideoPredictor:
    """Builds a model for video with its predictor.

    Args:
        ckpt_path: as for :func:`build_sam2`, but a file with the image weights alone is refused.
        apply_postprocessing: also fills holes of up to 8 low-resolution pixels, and encodes prompted masks as binary.
        vos_optimized: gives a :class:`SAM2VideoPredictorVOS`. Tracking goes by recorded steps on NVIDIA GPUs with or
            without it; this class says in the log where it cannot. Nothing is compiled for it. ``warmup()`` of the
            predictor does beforehand what the first frames would wait for.
        config_file, device, mode, hydra_overrides_extra, dtype, allow_targets, **kwargs: as for :func:`build_sam2`.

    Raises:
        CheckpointError: the checkpoint cannot be read, does not fit, or lacks weights that video needs.
        FileNotFoundError, ConfigError, RuntimeError, ValueError: as for :func:`build_sam2`.
    """
    name = "SAM2VideoPredictorVOS" if vos_optimized else "SAM2VideoPredictor"
    overrides = [
        f"++model._target_=sam2fast.sam2_video_predictor.{name}",
        *hydra_overrides_extra,
        *(VIDEO_POSTPROCESSING if apply_postprocessing else ()),
    ]
    model = _build(config_file, ckpt_path, device, overrides, dtype, allow_targets, allow_image_only=False)
    if not isinstance(model, SAM2VideoPredictor):
        raise ConfigError(f"the overrides make the model a {type(model).__name__}, which is no SAM2VideoPredictor")
    return model.eval() if mode == "eval" else model.train()


def build_sam2_hf(model_id: str, **kwargs: Any) -> SAM2Base:
    """:func:`build_sam2` with a model of the Hugging Face hub, such as ``facebook/sam2.1-hiera-tiny``.

    ``sam2fast/nano`` comes with the package: no network, no hub, and ``device`` is ``auto`` unless it is given.

    Raises:
        KeyError: the id is neither an official one nor nano's.
        ImportError: the package huggingface_hub is not installed.
    """
    config_name, ckpt_path = _hf_download(model_id)
    kwargs = _defaults(model_id) | kwargs
    return build_sam2(config_file=config_name, ckpt_path=ckpt_path, **kwargs)


def build_sam2_video_predictor_hf(model_id: str, **kwargs: Any) -> SAM2VideoPredictor:
    """:func:`build_sam2_video_predictor` with a model of the Hugging Face hub; raises as :func:`build_sam2_hf`."""
    config_name, ckpt_path = _hf_download(model_id)
    kwargs = _defaults(model_id) | kwargs
    return build_sam2_video_predictor(config_file=config_name, ckpt_path=ckpt_path, **kwargs)


def _hf_download(model_id: str) -> tuple[str, str]:
    """Configuration name and local checkpoint of nano or of an official Hugging Face id."""
    if model_id == nano.MODEL_ID:
        return nano.CONFIG, str(nano.WEIGHTS)
    if model_id not in HF_MODEL_ID_TO_FILENAMES:
        ids = ", ".join((nano.MODEL_ID, *HF_MODEL_ID_TO_FILENAMES))
        raise KeyError(f"{model_id!r} is no published model; the ids are {ids}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError("loading from the hub needs huggingface_hub: pip install 'sam2fast[hub]'") from error
    config_name, checkpoint_name = HF_MODEL_ID_TO_FILENAMES[model_id]
    return config_name, hf_hub_download(repo_id=model_id, filename=checkpoint_name)


def _defaults(model_id: str) -> dict[str, Any]:
    # The original's default device is CUDA; a model that is there on every machine should run on it.
    return {"device": "auto"} if model_id == nano.MODEL_ID else {}


def _build(
    config_file: str | Path,
    ckpt_path: str | Path | None,
    device: str | torch.device,
    overrides: Sequence[str],
    dtype: torch.dtype | None,
    allow_targets: Sequence[str],
    allow_image_only: bool = True,
) -> SAM2Base:
    config = load_config(config_file, overrides)
    if OmegaConf.select(config, "model._target_") is None:
        raise ConfigError(f"configuration {config_file} has no 'model' with a '_target_'")
    target = available_device(device)
    _check_dtype(dtype, target)
    if ckpt_path is None:
        model = build_from_config(config.model, allow_targets)
    else:
        # Weights go straight to the device, without an initialisation that they would overwrite. Classes of the
        # caller's may compute something in their constructor, which the meta device would swallow.
        with torch.device("cpu" if allow_targets else "meta"):
            model = build_from_config(config.model, allow_targets)
        load_checkpoint(model, ckpt_path, target, allow_image_only)
    if not isinstance(model, SAM2Base):
        raise ConfigError(f"configuration {config_file} describes a {type(model).__name__}, not a SAM2Base")
    return cast_weights(model.to(target), dtype)


def available_device(device: str | torch.device) -> torch.device:
    """``device`` as a ``torch.device``; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        RuntimeError: this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"there is no CUDA here for device {str(device)!r}; pass device='cpu' or 'auto'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("there is no MPS here; pass device='cpu' or 'auto'")
    return device


def _check_dtype(dtype: torch.dtype | None, device: torch.device) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("float16 on the CPU is not supported; use bfloat16 or float32")


def cast_weights(model: SAM2Base, dtype: torch.dtype | None) -> SAM2Base:
    """Casts the weights of linear layers and convolutions in place, but for the mask decoder's small heads.

    Everything else keeps its dtype.
    """
    heads = tuple(f"sam_mask_decoder.{name}." for name in MaskDecoder.keep_fp32)
    if dtype is not None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not f"{name}.".startswith(heads):
                module.to(dtype)
    return model
