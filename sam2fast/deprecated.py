"""Public names that moved or were removed: old import paths work for one version, removed names say what replaces them.

Imports nothing of the package: anybody may import it.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module or package -> where its public names are now. A package's modules move with it.
MOVED: dict[str, str] = {
    "sam2fast.approximations": "sam2fast.tracking.approximations",
    "sam2fast.checkpoints.partial": "sam2fast.checkpoints.loading",
    "sam2fast.cluster": "sam2fast.deploy.ray",
    "sam2fast.compilation": "sam2fast.deploy.compilation",
    "sam2fast.demo.film": "sam2fast.demo.clip",
    "sam2fast.evaluation.label_maps": "sam2fast.evaluation.j_and_f",
    "sam2fast.exported": "sam2fast.deploy.exported",
    "sam2fast.misc": "sam2fast.compat.misc",
    "sam2fast.overlay": "sam2fast.io.overlay",
    "sam2fast.parallel": "sam2fast.deploy.parallel",
    "sam2fast.polygons": "sam2fast.io.rle",
    "sam2fast.reproducibility": "sam2fast.utils.reproducibility",
    "sam2fast.rle": "sam2fast.io.rle",
    "sam2fast.testing": "sam2fast.utils.testing",
    "sam2fast.tracking.scores": "sam2fast.tracking.outputs",
    "sam2fast.tracking.selection": "sam2fast.modeling.memory_selection",
    "sam2fast.training.adapter_files": "sam2fast.training.adapters",
    "sam2fast.training.data.coco": "sam2fast.training.data.json_datasets",
    "sam2fast.training.data.fixed": "sam2fast.training.data.dataset_wrappers",
    "sam2fast.training.data.folders": "sam2fast.training.data.png_datasets",
    "sam2fast.training.data.json_videos": "sam2fast.training.data.json_datasets",
    "sam2fast.training.data.mask_folders": "sam2fast.training.data.png_datasets",
    "sam2fast.training.data.repeat": "sam2fast.training.data.dataset_wrappers",
    "sam2fast.training.data.sa1b": "sam2fast.training.data.json_datasets",
    "sam2fast.training.data.synthetic.teacher": "sam2fast.training.data.synthetic.pseudo_labels",
    "sam2fast.training.resolution": "sam2fast.training.losses",
    "sam2fast.vos": "sam2fast.evaluation.vos",
}

# Old public name, under its module's new name -> its name in that module now.
RENAMED: dict[str, str] = {
    "sam2fast.demo.clip.encode_film": "encode_mp4",
    "sam2fast.deploy.exported.ArtifactFacts": "ArtifactMetadata",
    "sam2fast.deploy.exported.read_facts": "read_metadata",
    "sam2fast.research.own_op": "override_op",
}

# Removed name -> what to use instead, as the end of a sentence.
REMOVED: dict[str, str] = {
    "sam2fast.deploy.exported.check_program": "artefacts are programs: load only those that you exported yourself",
    "sam2fast.environment": "use `sam2fast env --json`",
    "sam2fast.deploy.ray.on_slurm": "use on_ray inside a SLURM job, or an array of commands; see docs/scale_out.md",
    "sam2fast.deploy.parallel.SpreadPredictor": "track each video on one device, and several with track_videos",
    "sam2fast.deploy.parallel.SpreadState": "track each video on one device, and several with track_videos",
}


def old_name(module: str, name: str) -> Any:
    """What a module's ``__getattr__`` returns for a public name that it no longer has.

    Raises:
        ImportError: the name was removed; the message names the replacement. Not AttributeError, for which ``from
            module import name`` shows a message of its own.
        AttributeError: it never had the name.
    """
    full = f"{module}.{name}"
    if new := RENAMED.get(full):
        _warn(full, f"{module}.{new}")
        return getattr(importlib.import_module(module), new)
    if instead := REMOVED.get(full):
        raise ImportError(f"{full} was removed in sam2fast 0.2; {instead}")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def new_target(target: str) -> str:
    """The dotted name that a class or function of a moved module has now; other names are returned unchanged."""
    module, _, name = target.rpartition(".")
    new = _new_module(module)
    if new is None:
        return target
    _warn(target, f"{new}.{name}")
    return f"{new}.{name}"


class RenamedAttribute:
    """An attribute of a class under its old name: ``old = RenamedAttribute("new")``."""

    def __init__(self, new: str) -> None:
        self._new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = f"{owner.__name__}.{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        _warn(self._old, self._new)
        return getattr(owner if instance is None else instance, self._new)


class _MovedModule(ModuleType):
    """A module under its old name: reads and sets the attributes of the new one."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name, f"{target} under its old name.")
        self.__path__: list[str] = []  # its submodules are imported by their old names, too
        self.__dict__["_target"] = target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._target), RENAMED.get(f"{self._target}.{name}", name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or isinstance(value, ModuleType):
            super().__setattr__(name, value)
        else:
            setattr(importlib.import_module(self._target), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(importlib.import_module(self._target), name)


class _MovedModules:
    """Finds and loads the modules of :data:`MOVED` by their old names, after every other finder."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if instead := REMOVED.get(fullname):
            raise ImportError(f"{fullname} was removed in sam2fast 0.2; {instead}")
        return ModuleSpec(fullname, self, is_package=True) if _new_module(fullname) else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        target = _new_module(spec.name)
        assert target is not None
        try:
            importlib.import_module(target)
        except ModuleNotFoundError as error:
            if error.name == target:
                raise ModuleNotFoundError(f"no module named {spec.name!r}", name=spec.name) from None
            raise
        return _MovedModule(spec.name, target)

    def exec_module(self, module: ModuleType) -> None:
        _warn(module.__name__, module._target)


def _new_module(name: str) -> str | None:
    """Where a module is that had this name, or None."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        if new := MOVED.get(".".join(parts[:end])):
            return ".".join([new, *parts[end:]])
    return None


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name will go in sam2fast 0.3", DeprecationWarning, stacklevel=3)


def find_moved_modules() -> None:
    """Makes old module names importable; once in a process."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
