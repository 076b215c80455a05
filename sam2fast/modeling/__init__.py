"""The SAM 2 model: image encoder, prompt encoder, mask decoder, memory attention, memory encoder.

Importing this package stores the attributes of all module classes. After construction, each module stores the types of
its child modules. The engine compares stored and current values to detect modules that a user modified.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from torch import nn

from sam2fast.modeling.sam2_base import SAM2Base  # imports all modules of the network

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)
_WITH_WEIGHTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm, nn.BatchNorm2d, nn.Embedding)
_WITHOUT = (nn.Module, *CONTAINERS, nn.GELU, nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.Identity)


def child_types(module: nn.Module) -> dict[str, type]:
    """Returns the types of the child modules by name, including the modules in containers."""
    types = {}
    for name, child in module._modules.items():
        types[name] = type(child)
        if isinstance(child, CONTAINERS):
            types |= {f"{name}.{item}": item_type for item, item_type in child_types(child).items()}
    return types


def _storing_children(init: Callable[..., None]) -> Callable[..., None]:
    """Returns a constructor that also stores :func:`child_types`."""

    @wraps(init)
    def construct(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        vars(self)["_constructed"] = child_types(self)

    return construct


def _classes(base: type[nn.Module] = nn.Module) -> Iterator[type[nn.Module]]:
    """Yields the module classes of this package, except ``SAM2Base`` and its base classes."""
    for cls in base.__subclasses__():
        if cls.__module__.startswith(f"{__name__}.") and not issubclass(SAM2Base, cls):
            yield cls
        yield from _classes(cls)


_NETWORK = set(_classes())
for _class in _NETWORK:
    _class.__init__ = _storing_children(_class.__init__)  # type: ignore[method-assign]
# Class -> attributes of the class when this package was imported.
ORIGINAL = {cls: dict(vars(cls)) for cls in _NETWORK.union(_WITH_WEIGHTS, _WITHOUT)}
