"""Subjects: the packages that are measured, each built as its authors intend, all on the same weights; and the path
that their calls took.

fp32 is plain fp32: TensorFloat-32 is off. bfloat16 is autocast for the official package, and weights cast once for
ours. A subject that cannot be built here raises :class:`MissingError`, and its row says why.
"""

import contextlib
import functools
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

SUPPORT = Path(__file__).resolve().parents[2] / "tests" / "support"
if str(SUPPORT) not in sys.path:
    sys.path.insert(0, str(SUPPORT))

import tame_weights  # noqa: E402

from suite.missing import GaveUpError, MissingError  # noqa: E402

BASELINE = "official"
SUBJECTS = ("official", "official vos_optimized", "sam2fast", "sam2fast fast", "sam2fast compiled")
# Subjects whose first calls compile.
COMPILED = ("official vos_optimized", "sam2fast compiled")
VIDEO_ONLY = ("official vos_optimized", "sam2fast fast")
RECORDED, EAGER = "recorded", "eager"  # paths that calls take
SIZES = ("nano", "t", "s", "b+", "l")
OWN = ("nano", "mini")  # models of sam2fast
# Errors of an installation that cannot be used.
UNUSABLE = (ImportError, OSError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class Setting:
    """Setting of a measurement.

    Attributes:
        frames: number of frames tracked between two synchronisations, in cases of throughput; None for 96.
        encode_ahead: argument of our video predictor's propagation.
    """

    size: str
    dtype: str = "fp32"
    image_size: int = 1024
    device: str = "cpu"
    objects: int | None = None
    history: int | None = None
    frames: int | None = None
    encode_ahead: int | None = None


@dataclass
class Built:
    """A predictor, ready to be called inside its :meth:`context`."""

    predictor: Any
    setting: Setting
    autocast: bool = False
    compile_s: float | None = None  # of what was compiled before the first call
    notes: list[str] = field(default_factory=list)
    is_shared: bool = False  # whether its model was built for another session; see shared_models
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """The dtype it computes in; to be entered for each call, as the others compute between them."""
        return torch.autocast(torch.device(self.setting.device).type, torch.bfloat16, enabled=self.autocast)


def is_ours(subject: str) -> bool:
    return not subject.startswith("official")


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class Timed(NamedTuple):
    """A call that was timed.

    Attributes:
        seconds: seconds until the device is done.
        result: result of the call.
        host_s: processor time of the calling thread until the call returned. It counts waits that spin.
    """

    seconds: float
    result: Any
    host_s: float


def timed(device: str, call: Callable[[], Any]) -> Timed:
    """Times a call."""
    synchronise(device)
    start, host_start = time.perf_counter(), time.thread_time()
    result = call()
    host_s = time.thread_time() - host_start
    synchronise(device)
    return Timed(time.perf_counter() - start, result, host_s)


def plain_fp32() -> None:
    """Products and convolutions in fp32 are what they say, on CUDA too."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def config_of(size: str) -> str:
    return f"configs/{size}/sam2fast_{size}.yaml" if size in OWN else f"configs/sam2.1/sam2.1_hiera_{size}.yaml"


_shared: dict[Any, Any] | None = None  # models by what they are built from


@contextlib.contextmanager
def shared_models() -> Iterator[None]:
    """Inside, sessions share the models that are built from the same arguments; each is built once."""
    global _shared
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def _once(subject: str, build: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[Any, bool]:
    """``build(*arguments, **more)``, and whether it was there already."""
    if _shared is None:
        return build(*arguments, **more), False
    key = subject, arguments, tuple(more.items())
    is_there = key in _shared
    if not is_there:
        _shared[key] = build(*arguments, **more)
    return _shared[key], is_there


def image_predictor(subject: str, setting: Setting, checkpoint: str | None = None) -> Built:
    """``SAM2ImagePredictor`` of a subject.

    Args:
        checkpoint: weights to load, or tame ones drawn by name.

    Raises:
        MissingError: there is none here.
    """
    if subject in VIDEO_ONLY:
        raise MissingError("for video only")
    with _or_missing(subject):
        if is_ours(subject):
            from sam2fast.sam2_image_predictor import SAM2ImagePredictor

            model, is_shared = _once(subject, _our_model, "build_sam2", _bare(setting), checkpoint)
            return _built(subject, SAM2ImagePredictor(model), setting, is_shared, model)
        _official_package(setting.device)
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        names = "build_sam2", "modeling.sam2_base.SAM2Base"
        model, is_shared = _once(subject, _official_model, *names, _bare(setting, "fp32"), checkpoint)
        predictor = SAM2ImagePredictor(model)
        # It takes 1024 for granted.
        predictor._bb_feat_sizes = [(setting.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return _built(subject, predictor, setting, is_shared)


def video_predictor(subject: str, setting: Setting, checkpoint: str | None = None) -> Built:
    """``SAM2VideoPredictor`` of a subject, without progress bars.

    Raises:
        MissingError: there is none here.
    """
    fast = subject in VIDEO_ONLY
    if fast and not setting.device.startswith("cuda"):
        raise MissingError("for CUDA only")
    build = "build_sam2_video_predictor"
    with _or_missing(subject):
        if is_ours(subject):
            given = build, _bare(setting), checkpoint
            predictor, is_shared = _once(subject, _our_model, *given, vos_optimized=fast)
            built = _built(subject, predictor, setting, is_shared, predictor)
        else:
            built = _official_video_predictor(subject, setting, checkpoint, build, fast)
    _fill_holes_where_both_can(built)
    return built


def _official_video_predictor(subject: str, setting: Setting, checkpoint: str | None, build: str, fast: bool) -> Built:
    _official_package(setting.device)
    import sam2.sam2_video_predictor as module

    target = "sam2_video_predictor.SAM2VideoPredictorVOS" if fast else "sam2_video_predictor.SAM2VideoPredictor"
    given = build, target, _bare(setting, "fp32"), checkpoint
    predictor, is_shared = _once(subject, _official_model, *given, vos_optimized=fast)
    built = _built(subject, predictor, setting, is_shared)
    for place in (module, sys.modules["sam2.utils.misc"]):
        built.closing.enter_context(mock.patch.object(place, "tqdm", lambda frames, **kwargs: frames))
    if setting.dtype == "fp32":  # memories in bfloat16 would hide any other difference
        from float32_memory import Float32Memory

        built.closing.enter_context(mock.patch.object(module, "torch", Float32Memory()))
        built.notes.append("memories kept in fp32, which it rounds to bfloat16 otherwise")
    return built


def _bare(setting: Setting, dtype: str | None = None) -> Setting:
    """The part of a setting that a model is built from. The official one is always built in fp32."""
    return Setting(setting.size, dtype or setting.dtype, setting.image_size, setting.device)


def _built(subject: str, predictor: Any, setting: Setting, is_shared: bool, model: Any = None) -> Built:
    """The predictor, whose model is compiled where the subject is about that."""
    if subject != "sam2fast compiled":
        autocast = setting.dtype == "bf16" and not is_ours(subject)
        return Built(predictor, setting, autocast=autocast, is_shared=is_shared)
    from sam2fast.deploy.compilation import compile_model

    seconds = timed("cpu", lambda: compile_model(model)).seconds
    return Built(predictor, setting, compile_s=seconds)


def _our_model(build: str, setting: Setting, checkpoint: str | None, **kwargs: Any) -> Any:
    from sam2fast import build_sam

    dtype = torch.bfloat16 if setting.dtype == "bf16" else None
    arguments = {**_build_arguments(setting), **kwargs}
    model = getattr(build_sam, build)(config_of(setting.size), checkpoint, dtype=dtype, **arguments)
    return model if checkpoint is not None else tame_weights.fill(model, 0)


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
    """Names the code that does it; empty if the package's extension is absent, None if the package is."""
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


def _official_model(build: str, target: str, setting: Setting, checkpoint: str | None, **kwargs: Any) -> Any:
    if setting.size == "nano":
        model = _official_nano(f"sam2.{target}", setting)
        if checkpoint is not None:
            model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    else:
        function = getattr(sys.modules["sam2.build_sam"], build)
        model = function(config_of(setting.size), checkpoint, **_build_arguments(setting), **kwargs)
    return model if checkpoint is not None else tame_weights.fill(model, 0)


def _official_nano(target: str, setting: Setting) -> Any:
    """The official classes in nano's shape; its package does not know that configuration."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from sam2fast._official_names import MODULES
    from sam2fast.build_sam import IMAGE_POSTPROCESSING, VIDEO_POSTPROCESSING
    from sam2fast.config import load_config

    overrides = VIDEO_POSTPROCESSING if "video" in target else IMAGE_POSTPROCESSING
    config = load_config(config_of("nano"), [f"++model.image_size={setting.image_size}", *overrides]).model
    text = json.dumps(OmegaConf.to_container(config, resolve=True))
    for theirs, ours in (*MODULES.items(), ("sam2.modeling.sam.transformer", "sam2fast.modeling.attention")):
        text = text.replace(f'"{ours}.', f'"{theirs}.')
    return instantiate(json.loads(text) | {"_target_": target}).to(setting.device).eval()


def _build_arguments(setting: Setting) -> dict[str, Any]:
    return {"device": setting.device, "hydra_overrides_extra": [f"++model.image_size={setting.image_size}"]}


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


def plain_path(subject: str) -> str:
    """Returns the path of a predictor that records nothing, such as the official ones."""
    return "compiled" if subject in COMPILED else EAGER


def image_path(subject: str, model: Any) -> str:
    """Returns the path of an image predictor: recorded if its encodings were."""
    from sam2fast.engine.replay import _by_model

    calls = _by_model.get(model, {}).get(False) if is_ours(subject) else None
    return RECORDED if calls is not None and calls._calls and not calls.pool.failures else plain_path(subject)


class TrackingPath:
    """Path of a subject's video predictor, looked at after every call that counts."""

    def __init__(self, subject: str, predictor: Any) -> None:
        self.subject, self.predictor = subject, predictor
        self.reasons: dict[str | None, None] = {}  # None for what was recorded

    def forget(self) -> None:
        self.reasons.clear()

    def look(self, bank: Any) -> None:
        """Takes a note of whether the latest frame of a session with this memory bank was tracked by recorded steps.

        Raises:
            GaveUpError: a recording failed, since when the predictor does without.
        """
        if not is_ours(self.subject):
            return
        from sam2fast.engine.replay import _by_model

        for each in _by_model.get(self.predictor, {}).values():
            for why in each.pool.failures.values():
                raise GaveUpError(why.splitlines()[0])
        why: str | None = self.predictor._tracker.steps.why_eager()
        # Recorded steps have the pools of a session's bank from its first tracked frame on.
        if why is None and bank not in self.predictor._tracker.steps._used:
            why = "the fast path has not tracked this video"
        self.reasons[why] = None

    @property
    def name(self) -> str:
        """``recorded`` if every frame was, else why not; empty if nothing was looked at."""
        if not is_ours(self.subject):
            return plain_path(self.subject)
        if not self.reasons:
            return ""
        reasons = [reason for reason in self.reasons if reason is not None]
        name = f"{EAGER}: {' and '.join(reasons)}" if reasons else RECORDED
        return f"compiled, {name}" if self.subject in COMPILED else name
