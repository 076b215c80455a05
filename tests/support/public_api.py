"""The public API as text: public names, with the signatures of functions, classes and public methods."""

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType
from typing import Any, NamedTuple, is_typeddict

# Modules whose public names are promised: those that README.md and docs/ import from.
MODULES = (
    "sam2fast",
    "sam2fast.amg",
    "sam2fast.automatic_mask_generator",
    "sam2fast.build_sam",
    "sam2fast.checkpoints",
    "sam2fast.checkpoints.loading",
    "sam2fast.deploy.ray",
    "sam2fast.deploy.compilation",
    "sam2fast.config",
    "sam2fast.datasets",
    "sam2fast.downloads",
    "sam2fast.evaluation",
    "sam2fast.evaluation.clicks",
    "sam2fast.evaluation.folders",
    "sam2fast.deploy.exported",
    "sam2fast.deploy.onnx",
    "sam2fast.kernels.memory_attention",
    "sam2fast.modeling.image_encoder",
    "sam2fast.modeling.sam2_base",
    "sam2fast.deploy.parallel",
    "sam2fast.deploy.parallel.runners",
    "sam2fast.deploy.parallel.videos",
    "sam2fast.profiling",
    "sam2fast.utils.reproducibility",
    "sam2fast.research",
    "sam2fast.io.rle",
    "sam2fast.find",
    "sam2fast.image_features",
    "sam2fast.sam2_image_predictor",
    "sam2fast.sam2_video_predictor",
    "sam2fast.tracking.strategies",
    "sam2fast.tracking.stream",
    "sam2fast.training.adapters",
    "sam2fast.training.config",
    "sam2fast.training.data.synthetic",
    "sam2fast.transforms",
    "sam2fast.video_io",
    "sam2fast.results",
    "sam2fast.evaluation.vos",
)
SETS = (set, frozenset)  # which have another order in each process
HEAD = """# What sam2fast promises to users: public names and signatures. A change here is a change of the API.
# Rewritten by `python tests/api/rewrite_public_api.py`.
"""


class Shown(NamedTuple):
    """Replaces a default in a signature whose text is not reproducible."""

    text: str

    def __repr__(self) -> str:
        return self.text


def public_api() -> str:
    """The whole text."""
    return HEAD + "".join(f"\n{module}\n" + "".join(f"    {line}\n" for line in _lines(module)) for module in MODULES)


def promised(name: str) -> list[tuple[str, Any]]:
    """The public names of a module and what they mean, sorted."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        # What a module only imports is another's; its constants are not promised.
        names = [n for n, value in vars(module).items() if not n.startswith("_") and _is_own(value, name)]
    return [(public, getattr(module, public)) for public in sorted(names)]


def promised_members(value: type) -> dict[str, Any]:
    """Public methods and properties of a class and of those bases of ours that are not public by themselves."""
    return {
        name: member
        for name, member in sorted(_found(value).items())
        if not name.startswith("_")
        and isinstance(member, property | cached_property | staticmethod | classmethod | FunctionType)
    }


def _found(value: type) -> dict[str, Any]:
    homes = [base for base in value.__mro__ if base.__module__.startswith("sam2fast.") and not _is_listed(base, value)]
    return {name: member for base in reversed(homes) for name, member in vars(base).items()}


def _lines(name: str) -> Iterator[str]:
    for public, value in promised(name):
        home = getattr(value, "__module__", name)
        if home != name and home in MODULES:
            yield f"{public}: {home}"
            continue
        yield from _described(public, value)


def _is_own(value: Any, module: str) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = [
            base.__name__ for base in value.__bases__ if base is not object and not base.__module__.startswith("_")
        ]
        yield f"class {name}({', '.join(bases)})" if bases else f"class {name}"
        yield from (f"    {line}" for line in _members(value))
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _members(value: type) -> Iterator[str]:
    yield from _fields(value)
    if inspect.isfunction(init := _found(value).get("__init__")):
        yield f"__init__{_signature(init)}"
    for name, member in promised_members(value).items():
        if isinstance(member, property | cached_property):
            yield f"{name}: property"
        elif isinstance(member, staticmethod | classmethod):
            yield f"{type(member).__name__} {name}{_signature(member.__func__)}"
        else:
            yield f"{name}{_signature(member)}"


def _fields(value: type) -> Iterator[str]:
    """Of named tuples, whose order counts, of dictionaries with known keys and of dataclasses."""
    if is_typeddict(value):
        yield f"keys: {', '.join(sorted(value.__annotations__))}"
    elif dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        yield f"fields: {', '.join(sorted(names))}"
    elif names := getattr(value, "_fields", ()):
        yield f"fields in order: {', '.join(names)}"


def _is_listed(base: type, value: type) -> bool:
    return base is not value and base.__module__ in MODULES


def _signature(value: Any) -> str:
    """Parameters with their kinds and defaults; types are mypy's business, and written in many ways."""
    signature = inspect.signature(value)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty, default=_default(p.default))
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _default(value: Any) -> Any:
    if isinstance(value, SETS):
        return Shown("{...}")
    if value is not inspect.Parameter.empty and callable(value) and hasattr(value, "__qualname__"):
        return Shown(f"{value.__module__}.{value.__qualname__}")
    return value
