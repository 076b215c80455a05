"""What the network consisted of when it was made, for those who have to know whether it was changed since."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import nn

Class = TypeVar("Class", bound=type[nn.Module])

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)
_OF_TORCH: tuple[type[nn.Module], ...] = (
    nn.Module,
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.LayerNorm,
    nn.BatchNorm2d,
    nn.Embedding,
    nn.GELU,
    nn.ReLU,
    nn.MaxPool2d,
    nn.Dropout,
    nn.Identity,
    *CONTAINERS,
)
# The classes of modules in the network, with the attributes that they were defined with.
DEFINED: dict[type[nn.Module], dict[str, Any]] = {cls: dict(vars(cls)) for cls in _OF_TORCH}


def registered(cls: Class) -> Class:
    """Class decorator: remembers the attributes of the class, and its instances the classes of the parts in them."""
    init: Callable[..., None] = cls.__init__

    @wraps(init)
    def construct(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        vars(self)["_constructed"] = kinds_of_parts(self)

    cls.__init__ = construct  # type: ignore[method-assign]
    DEFINED[cls] = dict(vars(cls))
    return cls


def kinds_of_parts(module: nn.Module) -> dict[str, type]:
    """The classes of the modules in this one, and of those in its lists and sequences, by name."""
    found = {}
    for name, child in module._modules.items():
        found[name] = type(child)
        if isinstance(child, CONTAINERS):
            found |= {f"{name}.{below}": kind for below, kind in kinds_of_parts(child).items()}
    return found
