"""Who is measured, each built as its authors intend, all on the same weights.

fp32 is plain fp32: TensorFloat-32 is off. bfloat16 is autocast for the official package, and weights cast once for
ours. A subject that cannot be built here raises :class:`MissingError`, and its row says why.
"""

import contextlib
import functools
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SUPPORT = Path(__file__).resolve().parents[2] / "tests" / "support"
if str(SUPPORT) not in sys.path:
    sys.path.insert(0, str(SUPPORT))

import tame_weights  # noqa: E402

from suite.missing import MissingError  # noqa: E402

BASELINE = "official"
SUBJECTS = ("official", "official vos_optimized", "sam2fast", "sam2fast fast", "sam2fast compiled")
# Those whose first calls compile.
COMPILED = ("official vos_optimized", "sam2fast compiled")
SIZES = ("nano", "t", "s", "b+", "l")
# What an installation that cannot be used may raise.
UNUSABLE = (ImportError, OSError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class Setting:
    """What a case is measured at.

    Attributes:
        frames: how many are tracked between two synchronisations, where a case is about that; None for its own number.
        compiler: the backend of ``torch.compile`` for our compiled subject; another one than inductor for trying out.
    """

    size: str
    dtype: str
    image_size: int
    device: str = "cpu"
    objects: int | None = None
    history: int | None = None
    frames: int | None = None
    compiler: str = "inductor"


@dataclass
class Built:
    """A predictor, ready to be called inside its :meth:`context`."""

    predictor: Any
    setting: Setting
    autocast: bool = False
    compile_s: float | None = None  # of what was compiled before the first call
    notes: list[str] = field(default_factory=list)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """The dtype it computes in; to be entered for each call, as the others compute between them."""
        return torch.autocast(torch.device(self.setting.device).type, torch.bfloat16, enabled=self.autocast)


def is_ours(subject: str) -> bool:
    return not subject.startswith("official")


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call until the device is done, and its result."""
    synchronise(device)
    start = time.perf_counter()
    result = call()
    synchronise(device)
    return time.perf_counter() - start, result


def plain_fp32() -> None:
    """Products and convolutions in fp32 are what they say, on CUDA too."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def config_of(size: str) -> str:
    return "configs/nano/sam2fast_nano.yaml" if size == "nano" else f"configs/sam2.1/sam2.1_hiera_{size}.yaml"


def image_predictor(subject: str, setting: Setting, checkpoint: str | None = None) -> Built:
    """``SAM2ImagePredictor`` of a subject.

    Args:
        checkpoint: weights to load, or tame ones drawn by name.

    Raises:
        MissingError: there is none here.
    """
    if subject in ("sam2fast fast", "official vos_optimized"):
        raise MissingError("for video only")
    if subject == "official":
        return _official_image_predictor(setting, checkpoint)
    with _or_missing(subject):
        from sam2fast.build_sam import build_sam2
        from sam2fast.sam2_image_predictor import SAM2ImagePredictor

        model = build_sam2(config_of(setting.size), checkpoint, dtype=_cast(setting), **_build_arguments(setting))
        if checkpoint is None:
            tame_weights.fill(model, 0)
        built = Built(SAM2ImagePredictor(model), setting)
        if subject == "sam2fast compiled":
            _compile(built, model)
    return built


def _official_image_predictor(setting: Setting, checkpoint: str | None) -> Built:
    _official_package(setting.device)
    with _or_missing("official"):
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        model = _official_model("sam2.build_sam", "build_sam2", "sam2.modeling.sam2_base.SAM2Base", setting, checkpoint)
        predictor = SAM2ImagePredictor(model)
        # It takes 1024 for granted.
        predictor._bb_feat_sizes = [(setting.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return Built(predictor, setting, autocast=setting.dtype == "bf16")


def video_predictor(subject: str, setting: Setting, checkpoint: str | None = None) -> Built:
    """``SAM2VideoPredictor`` of a subject, without progress bars.

    Raises:
        MissingError: there is none here.
    """
    if subject in ("sam2fast fast", "official vos_optimized") and not setting.device.startswith("cuda"):
        raise MissingError("for CUDA only")
    if subject.startswith("official"):
        return _official_video_predictor(subject, setting, checkpoint)
    with _or_missing(subject):
        from sam2fast.build_sam import build_sam2_video_predictor

        fast = subject == "sam2fast fast"
        predictor = build_sam2_video_predictor(
            config_of(setting.size), checkpoint, dtype=_cast(setting), vos_optimized=fast, **_build_arguments(setting)
        )
        if checkpoint is None:
            tame_weights.fill(predictor, 0)
        built = Built(predictor, setting)
        if subject == "sam2fast compiled":
            _compile(built, predictor)
    _fill_holes_where_both_can(built)
    return built


def _official_video_predictor(subject: str, setting: Setting, checkpoint: str | None) -> Built:
    _official_package(setting.device)
    optimized = subject == "official vos_optimized"
    with _or_missing(subject):
        import sam2.sam2_video_predictor as module

        name = "SAM2VideoPredictorVOS" if optimized else "SAM2VideoPredictor"
        target = f"sam2.sam2_video_predictor.{name}"
        predictor = _official_model(
            "sam2.build_sam", "build_sam2_video_predictor", target, setting, checkpoint, vos_optimized=optimized
        )
    built = Built(predictor, setting, autocast=setting.dtype == "bf16")
    built.closing.enter_context(_without_bars(module, sys.modules["sam2.utils.misc"]))
    if setting.dtype == "fp32":
        built.closing.enter_context(_float32_memory(module))
        built.notes.append("memories kept in fp32, which it rounds to bfloat16 otherwise")
    _fill_holes_where_both_can(built)
    return built


@contextlib.contextmanager
def _without_bars(*modules: Any) -> Iterator[None]:
    before = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = lambda frames, **kwargs: frames
    try:
        yield
    finally:
        for module, bar in zip(modules, before, strict=True):
            module.tqdm = bar


@contextlib.contextmanager
def _float32_memory(module: Any) -> Iterator[None]:
    """Inside, the official predictor stores memories in fp32: in bfloat16 they would hide any other difference."""
    from float32_memory import Float32Memory

    before = module.torch
    module.torch = Float32Memory()
    try:
        yield
    finally:
        module.torch = before


def _fill_holes_where_both_can(built: Built) -> None:
    """Without its extension the official package leaves holes as they are; then nobody fills them."""
    way = _official_hole_filling(built.setting.device)
    if way == "":
        built.predictor.fill_hole_area = 0
        built.notes.append("holes are not filled: the official package lacks its extension here")
    elif way is not None and type(built.predictor).__module__.startswith("sam2."):
        built.notes.append(f"holes are filled by {way}")


@functools.cache
def _official_hole_filling(device: str) -> str | None:
    """What does it: nothing, where the package's extension is absent. None where the package is."""
    try:
        _official_package(device)
    except MissingError:
        return None
    try:
        from sam2 import _C
    except (ImportError, OSError):
        return ""
    return "scipy in place of its extension" if _C.__spec__ is None else "its extension"


def _official_package(device: str) -> None:
    """Imports the official package, so that it works on the device.

    Raises:
        MissingError: it cannot be imported.
    """
    if importlib.util.find_spec("sam2") is None:
        raise MissingError("the official package is not installed")
    if device == "cpu":
        with contextlib.suppress(ImportError):
            import oracle  # noqa: F401  (its hole filling needs CUDA or this, and torchvision may be without operators)
    with _or_missing("official"):
        import sam2.build_sam  # noqa: F401


def _official_model(
    module: str, build: str, target: str, setting: Setting, checkpoint: str | None, **kwargs: Any
) -> Any:
    if setting.size == "nano":
        model = _official_nano(target, setting)
        if checkpoint is not None:
            model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    else:
        function = getattr(sys.modules[module], build)
        model = function(config_of(setting.size), checkpoint, **_build_arguments(setting), **kwargs)
    return model if checkpoint is not None else tame_weights.fill(model, 0)


def _official_nano(target: str, setting: Setting) -> Any:
    """The official classes in nano's shape; its package does not know that configuration."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from sam2fast._official_names import MODULES
    from sam2fast.build_sam import IMAGE_POSTPROCESSING, VIDEO_POSTPROCESSING
    from sam2fast.config import load_config

    video = "video" in target
    overrides = [f"++model.image_size={setting.image_size}", *(VIDEO_POSTPROCESSING if video else IMAGE_POSTPROCESSING)]
    config = OmegaConf.to_container(load_config(config_of("nano"), overrides).model, resolve=True)
    official = {ours: theirs for theirs, ours in MODULES.items()} | {
        "sam2fast.modeling.attention": "sam2.modeling.sam.transformer"
    }

    def translated(node: Any) -> Any:
        if isinstance(node, list):
            return [translated(value) for value in node]
        if not isinstance(node, dict):
            return node
        found = {name: translated(value) for name, value in node.items()}
        if "_target_" in node:
            module, _, name = node["_target_"].rpartition(".")
            found["_target_"] = f"{official.get(module, module)}.{name}"
        return found

    return instantiate(translated(config) | {"_target_": target}).to(setting.device).eval()


def _build_arguments(setting: Setting) -> dict[str, Any]:
    return {"device": setting.device, "hydra_overrides_extra": [f"++model.image_size={setting.image_size}"]}


def _cast(setting: Setting) -> torch.dtype | None:
    return torch.bfloat16 if setting.dtype == "bf16" else None


def _compile(built: Built, model: Any) -> None:
    from sam2fast.deploy.compilation import compile_model

    start = time.perf_counter()
    compile_model(model, backend=built.setting.compiler)
    built.compile_s = time.perf_counter() - start
    if built.setting.compiler != "inductor":
        built.notes.append(f"the backend of torch.compile is {built.setting.compiler}")


@contextlib.contextmanager
def _or_missing(subject: str) -> Iterator[None]:
    """Turns what a package raises that is absent or, if it is not ours, cannot be used into :class:`MissingError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UNUSABLE as error:
        if is_ours(subject) and not isinstance(error, ImportError):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise MissingError(f"not run: {error.name.partition('.')[0]} is missing") from error
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise MissingError(f"{subject} cannot be built here: {type(error).__name__}: {reason}") from error
