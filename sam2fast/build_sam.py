"""Builds SAM 2 models and predictors from configurations and checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import nn

from sam2fast._official_names import RELEASES, SAM2
from sam2fast.checkpoints import choose_config, load_checkpoint, load_partial
from sam2fast.checkpoints.weight_files import SUFFIXES
from sam2fast.compat.camera import SAM2CameraPredictor
from sam2fast.config import ConfigError, build_from_config, load_config
from sam2fast.downloads import get_checkpoint, get_from_hub, get_repository
from sam2fast.downloads.catalog import model_id as id_of
from sam2fast.downloads.catalog import suggestion
from sam2fast.io.atomic import expanded
from sam2fast.modeling.layers import init_empty_weights
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.approximations import Approximations, ApproximationsLike
from sam2fast.tracking.strategies import StrategyLike, strategy_of
from sam2fast.utils.devices import available_device, usual_dtype
from sam2fast.utils.embedded import EMBEDDED, find_embedded
from sam2fast.utils.thread_guard import limit_threads_after_fork

# With a `__path__`, `from sam2fast.build_sam import` looks up missing names as submodules, so names of forks raise an
# ImportError that names a replacement. With a module-level `__getattr__`, `hasattr` would raise this error, too.
__path__: list[str] = []

# The official table: Hugging Face id -> (configuration, checkpoint file).
HF_MODEL_ID_TO_FILENAMES = {name: (release.config, release.checkpoint) for name, release in SAM2.items()}

# Overrides for apply_postprocessing. As in the official package, these overrides replace the caller's values of the
# same keys.
IMAGE_POSTPROCESSING = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
)
VIDEO_POSTPROCESSING = (
    *IMAGE_POSTPROCESSING,
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.fill_hole_area=${oc.select:fill_hole_area,8}",  # the configuration's value, or 8
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def build_sam2(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    dtype: torch.dtype | Literal["auto"] | None = None,
    allow_targets: Sequence[str] = (),
    ckpt_prefix: str = "",
    partial: bool = False,
    image_size: int | None = None,
    **kwargs: Any,
) -> SAM2Base:
    """Builds a SAM 2 model for images.

    Args:
        config_file: Name or path of a configuration. See :func:`sam2fast.config.load_config`.
        ckpt_path: ``.pt`` or ``.safetensors`` file with weight names of the official package or of transformers, or a
            folder that contains such a file (see :func:`sam2fast.checkpoints.find_weights`). ``sam2fast/mini`` and
            ``sam2fast/nano`` are the weights in the package. None leaves the weights untrained. If the file has only
            the weights for images, a message is logged.
        device: Device of the model. ``auto`` selects CUDA if available, else MPS, else the CPU.
        mode: ``eval`` for evaluation mode. Any other value sets training mode.
        hydra_overrides_extra: Overrides of the configuration, such as ``++model.image_size=512``.
        apply_postprocessing: If True, the best of the three multimask outputs replaces an unstable single mask.
        dtype: Dtype of linear and convolution weights. Norms, softmax and mask logits stay fp32. None keeps fp32
            weights, for use with or without autocast. ``"auto"`` selects bfloat16 on CUDA, float16 on NVIDIA GPUs that
            emulate bfloat16, and fp32 on other devices.
        allow_targets: Packages, modules or classes, see :func:`sam2fast.config.build_from_config`.
        ckpt_prefix: Prefix of the weights to load. The prefix is removed from the names. A prefix that all names share
            is always removed. See :func:`sam2fast.checkpoints.read_checkpoint`.
        partial: If True, loads weights with matching name and shape, leaves other weights untrained, and logs a report.
            See :func:`sam2fast.checkpoints.load_partial`.
        image_size: Side of the model's square input in pixels, a multiple of 32 (28 for SAM 3). None uses the value of
            ``hydra_overrides_extra`` or the configuration. For mini, the default is 768.
        **kwargs: Ignored, as in the official package, so that model and predictor can share arguments.

    Raises:
        FileNotFoundError: If the configuration or checkpoint does not exist.
        ConfigError: If the configuration or an override is invalid.
        CheckpointError: If the checkpoint cannot be read or does not fit.
        RuntimeError: If the device is not available.
        ValueError: If the device does not support the dtype.
    """
    embedded = find_embedded(str(config_file).removeprefix("configs/").removesuffix(".yaml"))
    overrides = [
        *_sized(embedded.photograph_size if embedded else None),
        *hydra_overrides_extra,
        *_sized(image_size),
        *(IMAGE_POSTPROCESSING if apply_postprocessing else ()),
    ]
    weights = Weights(ckpt_path, ckpt_prefix, partial)
    return _build(config_file, weights, device, overrides, dtype, allow_targets).train(mode != "eval")


def build_sam2_video_predictor(
    config_file: str | Path,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    dtype: torch.dtype | Literal["auto"] | None = None,
    allow_targets: Sequence[str] = (),
    ckpt_prefix: str = "",
    partial: bool = False,
    approximations: ApproximationsLike = (),
    strategy: StrategyLike = "sam2",
    image_size: int | None = None,
    **kwargs: Any,
) -> SAM2VideoPredictor:
    """Builds a SAM 2 video predictor.

    Args:
        ckpt_path: Checkpoint as in :func:`build_sam2`. A file with only the weights for images raises an error.
        apply_postprocessing: If True, also fills holes of up to 8 low-resolution pixels, and binarises the masks of
            prompted frames before memory encoding.
        vos_optimized: If True, returns a :class:`SAM2VideoPredictorVOS`, which logs the reason if CUDA graphs cannot be
            used. On NVIDIA GPUs, both classes use CUDA graphs. Neither class uses torch.compile. The predictor's
            ``warmup()`` compiles kernels and captures the graphs before the first frame.
        approximations: Approximations for speed, such as ``["memory_slots", "still_frames=0.01"]``. Empty by default.
            See :class:`sam2fast.tracking.approximations.Approximations`.
        strategy: Selection of masks and memories: ``"sam2"`` or another name of a published strategy, or a
            :class:`~sam2fast.tracking.strategies.base.Strategy`. With a configuration of SAMURAI, such as
            ``configs/samurai/sam2.1_hiera_t.yaml``, ``"sam2"`` means ``"samurai"``.
        image_size: Side of the input, see :func:`build_sam2`. The default of mini is 512.
        config_file, device, mode, hydra_overrides_extra, dtype, allow_targets, ckpt_prefix, partial, **kwargs: See
            :func:`build_sam2`.

    Raises:
        CheckpointError: If the checkpoint cannot be read, does not fit, or lacks weights for video.
        FileNotFoundError, ConfigError, RuntimeError, ValueError: If :func:`build_sam2` raises this error.
    """
    if strategy == "sam2" and str(config_file).removeprefix("configs/").startswith("samurai/"):
        strategy = "samurai"
    approximations, strategy = Approximations.of(approximations), strategy_of(strategy)  # checks names early
    name = "SAM2VideoPredictorVOS" if vos_optimized else "SAM2VideoPredictor"
    overrides = [
        f"++model._target_=sam2fast.sam2_video_predictor.{name}",
        *hydra_overrides_extra,
        *_sized(image_size),
        *(VIDEO_POSTPROCESSING if apply_postprocessing else ()),
    ]
    weights = Weights(ckpt_path, ckpt_prefix, partial, allow_image_only=False)
    model = _build(config_file, weights, device, overrides, dtype, allow_targets).train(mode != "eval")
    if not isinstance(model, SAM2VideoPredictor):
        raise ConfigError(f"the overrides make the model a {type(model).__name__}, which is no SAM2VideoPredictor")
    model.approximations, model.strategy = approximations, strategy
    return model


def build_sam2_camera_predictor(*args: Any, **kwargs: Any) -> SAM2CameraPredictor:
    """Builds the camera predictor of forks. For arguments and errors, see :func:`build_sam2_video_predictor`."""
    return SAM2CameraPredictor(build_sam2_video_predictor(*args, **kwargs))


def build_sam2_hf(model_id: str | Path, **kwargs: Any) -> SAM2Base:
    """Calls :func:`build_sam2` with a published model, such as ``facebook/sam2.1-hiera-tiny``, or a local checkpoint.

    The models ``sam2fast/nano`` and ``sam2fast/mini`` are part of the package and need no network. For these models,
    the default ``device`` is ``auto``.

    Args:
        model_id: Path of a checkpoint, or of a folder with a checkpoint (:func:`sam2fast.checkpoints.find_weights`),
            a name of a published model as on the command line, such as ``tiny``, or a Hugging Face id of a model with
            SAM 2's architecture. An official id always means the published model. Other ids need
            huggingface_hub. If installed, it also downloads Meta's models. A name that starts with ``./`` is a path.
        **kwargs: Arguments of :func:`build_sam2`. The default ``config_file`` belongs to the published model, or is
            inferred from the checkpoint's weights and a ``config.json`` of transformers in the same folder.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        CheckpointError: If the folder has several checkpoints, or no configuration fits, so pass ``config_file``.
        KeyError: If ``model_id`` is not a path, name or id.
        ImportError: If the id is not official, and huggingface_hub is not installed.
        DownloadError: If the model is not cached and cannot be downloaded.
    """
    return build_sam2(**_pretrained(model_id, **kwargs))


def build_sam2_video_predictor_hf(model_id: str | Path, **kwargs: Any) -> SAM2VideoPredictor:
    """Calls :func:`build_sam2_video_predictor` with a published model or a local checkpoint.

    For ``model_id``, ``config_file`` and errors, see :func:`build_sam2_hf`.
    """
    return build_sam2_video_predictor(**_pretrained(model_id, **kwargs))


def _pretrained(
    model_id: str | Path,
    config_file: str | Path | None = None,
    hydra_overrides_extra: Sequence[str] = (),
    **kwargs: Any,
) -> dict[str, Any]:
    """Returns the builders' arguments for a published model or a local checkpoint."""
    overrides: tuple[str, ...] = ()
    named = _named(model_id)
    if named is not None:
        published_config, ckpt_path = _hf_download(named)
        config_file = config_file or published_config
    else:
        try:
            ckpt_path = str(expanded(model_id) if _is_path(model_id) else get_repository(str(model_id)))
        except ValueError as error:
            raise _unknown(str(model_id)) from error
        if config_file is None:
            config_file, overrides = choose_config(ckpt_path, kwargs.get("ckpt_prefix", ""))
    return {
        # As in the official package, the default device is CUDA. Embedded models should run on every machine.
        **({"device": "auto"} if named in EMBEDDED else {}),
        "config_file": config_file,
        "ckpt_path": ckpt_path,
        "hydra_overrides_extra": [*overrides, *hydra_overrides_extra],
        **kwargs,
    }


def _named(model_id: str | Path) -> str | None:
    """Converts a name of a published or embedded model to the model's id. Returns None for other names."""
    # Ids take precedence over paths: the official package supports only ids, and a checkout has a folder sam2fast/nano.
    if model_id in EMBEDDED or model_id in RELEASES:
        return str(model_id)
    return None if isinstance(model_id, Path) or os.path.exists(model_id) else id_of(model_id)


def _is_path(model_id: str | Path) -> bool:
    name = os.fspath(model_id)
    shaped_like_one = name.startswith((".", "/", "~")) or name.endswith(SUFFIXES)
    return isinstance(model_id, Path) or shaped_like_one or os.path.exists(name)


def _hf_download(model_id: str) -> tuple[str, str]:
    """Returns the configuration's name and the local checkpoint's path for an embedded or a published model."""
    if model_id in EMBEDDED:
        return EMBEDDED[model_id].config, str(EMBEDDED[model_id].weights)
    if model_id not in RELEASES:
        raise _unknown(model_id)
    get = get_from_hub if model_id in SAM2 else get_checkpoint
    return RELEASES[model_id].config, str(get(model_id))


def _unknown(model_id: str) -> KeyError:
    ids = ", ".join((*EMBEDDED, *RELEASES))
    return KeyError(
        f"{model_id!r} is neither a file or folder here nor a published model.{suggestion(model_id)} The ids are {ids}"
    )


class Weights(NamedTuple):
    """Checkpoint to load, and options of loading. See :func:`build_sam2`."""

    path: str | Path | None
    prefix: str = ""
    partial: bool = False
    allow_image_only: bool = True


def _build(
    config_file: str | Path,
    weights: Weights,
    device: str | torch.device,
    overrides: Sequence[str],
    dtype: torch.dtype | Literal["auto"] | None,
    allow_targets: Sequence[str],
) -> SAM2Base:
    """Builds a model or video predictor with weights on the device. :func:`build_sam2` lists the errors."""
    limit_threads_after_fork()
    config = load_config(config_file, overrides)
    if "trainer" in config and OmegaConf.select(config, "model.image_encoder") is None:
        raise ConfigError(
            f"configuration {config_file} trains a model: give it to `sam2fast train -c`; to build a model, give the "
            "configuration of its checkpoint, such as sam2.1/sam2.1_hiera_b+"
        )
    if OmegaConf.select(config, "model._target_") is None:
        raise ConfigError(f"configuration {config_file} has no 'model' with a '_target_'")
    target = available_device(device)
    if dtype == "auto":
        dtype = usual_dtype(target)
    _check_dtype(dtype, target)
    if weights.path is None or weights.partial:
        model = build_from_config(config.model, allow_targets)
        if weights.path is not None:
            load_partial(model, weights.path, weights.prefix)
    else:
        # Modules are built on the meta device, and weights are loaded directly to the target device. Custom classes are
        # built on the CPU, because the meta device would lose the values that their constructors compute.
        with torch.device("cpu") if allow_targets else init_empty_weights():
            model = build_from_config(config.model, allow_targets)
        load_checkpoint(model, weights.path, target, weights.allow_image_only, prefix=weights.prefix)
    if not isinstance(model, SAM2Base):
        raise ConfigError(f"configuration {config_file} describes a {type(model).__name__}, not a SAM2Base")
    return cast_weights(model.to(target), dtype)


def _sized(image_size: int | None) -> list[str]:
    """Returns the configuration overrides for an input size."""
    return [] if image_size is None else [f"++model.image_size={image_size}"]


def _check_dtype(dtype: torch.dtype | None, device: torch.device) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not one of {', '.join(map(str, DTYPES))}")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("float16 on the CPU is not supported; use bfloat16 or float32")


def cast_weights(model: SAM2Base, dtype: torch.dtype | None) -> SAM2Base:
    """Casts the weights of linear layers and convolutions in place.

    The small heads of the mask decoder and all other parameters keep the original dtype.
    """
    heads = tuple(f"sam_mask_decoder.{name}." for name in MaskDecoder.keep_fp32)
    if dtype is not None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not f"{name}.".startswith(heads):
                module.to(dtype)
    return model


def _load_checkpoint(model: nn.Module, ckpt_path: str | Path | None) -> None:
    """Loads a checkpoint into a model, as the official ``_load_checkpoint``. Does nothing if the path is None.

    Raises:
        FileNotFoundError, CheckpointError, ImportError: If the file cannot be read, or does not fit the model.
    """
    if ckpt_path is not None:
        device = next(model.parameters()).device
        load_checkpoint(model, ckpt_path, device, allow_image_only=False, assign=False)
