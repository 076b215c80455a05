"""Stores tables of positions so that graphs of ``torch.compile`` and traces can read or compute the tables."""

from collections.abc import Callable
from operator import index
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import is_traced

Table = TypeVar("Table", bound=Tensor | tuple[Tensor, Tensor])


class Tables(Generic[Table]):
    """Computes tables once per map size and device, and stores them.

    Graphs of ``torch.compile`` read the stored tables as inputs. Traces and exported programs compute the tables.

    Args:
        compute: Function of sizes and a device that returns a tensor or a pair of tensors.
    """

    def __init__(self, compute: Callable[..., Table]) -> None:
        self._compute = compute
        self._names: dict[tuple[int | torch.device, ...], str] = {}

    def __call__(self, *sizes: int, device: torch.device) -> Table:
        """Returns the table of a map. Sizes may be symbolic sizes of ``torch.compile`` or traced sizes."""
        if not torch.compiler.is_dynamo_compiling() and is_traced():
            return self._compute(*sizes, device)
        # index() converts symbolic sizes to constants.
        return getattr(self, self._name(*[index(size) for size in sizes], device))

    def _name(self, *key: int | torch.device) -> str:
        """Computes the table if it is missing. Returns the name of the attribute that stores the table."""
        if key not in self._names:
            name = " ".join(map(str, key))  # differs between keys, because threads may compute tables at once
            # Disables inference mode, because training cannot use inference tensors.
            with torch.inference_mode(False), torch.no_grad():
                setattr(self, name, self._compute(*key))  # never freed, because CUDA graphs read the table
            self._names[key] = name
        return self._names[key]

    # The name is a constant of graphs. A marked function that returned tensors would fail in graphs that call it twice.
    _name._dynamo_marked_constant = True  # type: ignore[attr-defined]


def specialize(x: Tensor) -> None:
    """Makes height and width of images ``x (B, C, H, W)`` constants of the graph that ``torch.compile`` traces.

    :class:`Tables` make the sizes constants anyway, but tracing layers with symbolic sizes takes a minute.
    """
    if torch.compiler.is_dynamo_compiling():
        index(x.shape[2]), index(x.shape[3])
