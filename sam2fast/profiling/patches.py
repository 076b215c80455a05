"""Puts wrappers in the place of methods and functions, and takes them out again."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sam2fast.profiling import costs
from sam2fast.profiling.recorder import Cost, CostOf, Recorder

Call = Callable[..., Any]
# Of a call: its result, then its arguments.
Flops = Callable[..., float]


def replace(undo: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Makes ``owner.name`` what ``make`` makes of it, until ``undo`` is closed.

    Args:
        owner: an object, for it alone; a class; or a module of Python's.

    Raises:
        AttributeError: it has no such attribute.
    """
    original, own = getattr(owner, name), name in vars(owner)
    # What stands on the object itself comes back; what its class has shows again.
    setattr(owner, name, make(original))
    if own:
        undo.callback(setattr, owner, name, original)
    else:
        undo.callback(delattr, owner, name)


class Patches:
    """Wrappers that tell a recorder what happens.

    Args:
        undo: takes them out when it is closed.
        recorder: is told, while it listens.
    """

    def __init__(self, undo: ExitStack, recorder: Recorder) -> None:
        self._undo = undo
        self._recorder = recorder

    def part(
        self,
        owner: Any,
        method: str,
        *names: str,
        weights: tuple[nn.Module, ...] | None = None,
        flops: Flops | None = None,
        published: Callable[..., Callable[[], float]] | None = None,
        then: CostOf | None = None,
    ) -> None:
        """The method's calls are a part of these names, each inside the one before.

        Args:
            weights: it has no parts inside, and its bytes are its arguments', its result's and these modules'.
            flops: products inside that no module makes; of the result and the arguments.
            published: FLOPs of the original for the same, asked at the end; of the result and the arguments.
            then: the cost of what the above do not know; of the result and the arguments.
        """
        self.calls(owner, method, lambda: names, weights, flops, published, then)

    def calls(
        self,
        owner: Any,
        method: str,
        names: Callable[[], tuple[str, ...]],
        weights: tuple[nn.Module, ...] | None = None,
        flops: Flops | None = None,
        published: Callable[..., Callable[[], float]] | None = None,
        then: CostOf | None = None,
    ) -> None:
        """:meth:`part` with names that are asked at each call; none, and costs go to the part that is open."""
        recorder = self._recorder

        def counted(result: Any, args: Any, kwargs: Any) -> None:
            if weights is not None or flops is not None:
                number = 0.0 if flops is None else flops(result, *args, **kwargs)
                nbytes = 0.0
                if weights is not None:
                    nbytes = costs.bytes_of(args, kwargs, result) + costs.weight_bytes(*weights)
                recorder.add(Cost(number, _dtype(args, weights), nbytes))
            if then is not None:
                recorder.add(then(result, *args, **kwargs))
            if published is not None:
                recorder.add_published(published(result, *args, **kwargs))

        def make(original: Call) -> Call:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if not recorder.listens:
                    return original(*args, **kwargs)

                def call() -> Any:
                    result = original(*args, **kwargs)
                    if recorder.counts:
                        counted(result, args, kwargs)
                    return result

                return recorder.run(names(), call)

            return wrapped

        replace(self._undo, owner, method, make)

    def inside(self, owner: Any, method: str, flops: Flops) -> None:
        """Products that no module makes, in whatever part the method is called."""
        if self._recorder.counts:
            self.calls(owner, method, tuple, flops=flops)

    def products(self, model: nn.Module) -> None:
        """Linear layers and convolutions count their products, in whatever part they are called."""
        if not self._recorder.counts:
            return
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                self._product(module)

    def _product(self, module: nn.Module) -> None:
        recorder = self._recorder

        def make(original: Call) -> Call:
            def wrapped(x: Tensor, *args: Any) -> Tensor:
                out = original(x, *args)
                if recorder.listens:
                    recorder.add(Cost(costs.of_module(module, out, x), costs.dtype_name(out)))
                return out

            return wrapped

        replace(self._undo, module, "forward", make)

    def around(self, owner: Any, method: str, before: Callable[..., None]) -> None:
        """``before`` is told the arguments of each call."""

        def make(original: Call) -> Call:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                before(*args, **kwargs)
                return original(*args, **kwargs)

            return wrapped

        replace(self._undo, owner, method, make)


def _dtype(args: Any, weights: tuple[nn.Module, ...] | None) -> str:
    """The dtype in which a part's own products are made: that of its weights, else of its first tensor."""
    for module in weights or ():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                return costs.dtype_name(parameter)
    first = next(iter(costs.tensors(args)), None)
    return "float32" if first is None or not first.is_floating_point() else costs.dtype_name(first)
