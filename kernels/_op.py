"""Declares ops with kernels: operator, schema, fake result, gradient, choice of implementation.

An op is one node of a graph. Outside graphs, the implementation is called directly, since a torch operator costs tens
of microseconds of host time per call.
"""

import functools
import inspect
import logging
import pkgutil
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from types import NoneType
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from sam2fast import kernels
from sam2fast.kernels import _dispatch

_log = logging.getLogger(__name__)

# All ops by name, for tests and benchmarks.
OPS: dict[str, "Op[..., Any]"] = {}
# The two following functions of torch are private. If torch lacks these functions, every op is called as a torch
# operator.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_has_transforms: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PART = re.compile(r"([^()]*) \(([^()]*)\)")  # names of arguments, followed by their shape in parentheses
P = ParamSpec("P")
R = TypeVar("R")


def op(**options: Any) -> Callable[[Callable[P, R]], "Op[P, R]"]:
    """Decorator that turns a reference implementation into an op with its name and docstring.

    Args:
        options: Arguments of :class:`Op`. By default, ``kernel`` is ``<module>_triton.<name>_triton``, or
            ``<folder>.launch.<name>_triton`` for a module in a folder.
    """

    def made(reference: Callable[P, R]) -> "Op[P, R]":
        name, (folder, _, module) = reference.__name__, reference.__module__.split(".", 2)[2].rpartition(".")
        place = f"{folder}.launch" if folder else f"{module}_triton"
        return Op(name, reference, **{"kernel": f"{place}.{name}_triton", **options})

    return made


class Op(Generic[P, R]):
    """Function that calls a kernel if the kernel is supported and faster, else the reference implementation.

    Tensor arguments precede all other arguments. Optional tensors may be None.

    Args:
        name: Name of the torch operator ``sam2fast::name``.
        reference: Reference implementation. The operator has the annotated signature of the reference. Results have the
            shapes, dtypes and gradient of the reference's results.
        kernel: Name ``module.function``, below ``sam2fast.kernels``, of the GPU function. The function has the
            reference's arguments and defaults. The module imports Triton, so the first run imports the module.
        shapes: Sentence with the shapes of arguments. Calls are checked against this sentence, see :class:`Shapes`.
        fits: Function that returns False, or raises an error, if arguments violate a condition that is not about
            shapes.
        unsupported: Function that returns the reason why the kernel does not support its arguments, or None.
        prefers_torch: Function that returns True if torch is faster. The backend ``triton`` does not call the function.
        compile_key: Function that returns a call's sizes that are constants in the kernel. If a kernel fails, later
            calls with equal sizes use the reference.
        layout: Function that copies a result of the reference into the memory layout of the kernel's result.
        fake: Function that returns the results for fake tensors. The default runs the reference, and returns empty
            tensors in ``layout``.
        is_chosen_late: If True, the implementation is chosen when the operator runs, not when a graph is traced. Such
            an op has no gradient.
        cpu: Name ``module.function`` of the implementation for CPU tensors, for ops with ``is_chosen_late``. If empty,
            CPU tensors use the reference.
        launches: Name under which the kernel counts its launches. If empty, the op's name is used.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[P, R],
        kernel: str,
        *,
        shapes: str = "",
        fits: Callable[..., bool] | None = None,
        unsupported: Callable[..., str | None] = lambda *_: None,
        prefers_torch: Callable[..., bool] = lambda *_: False,
        compile_key: Callable[..., Hashable] | None = None,
        layout: Callable[[Tensor], Tensor] = Tensor.contiguous,
        fake: Callable[..., Any] | None = None,
        is_chosen_late: bool = False,
        cpu: str = "",
        launches: str = "",
    ) -> None:
        functools.update_wrapper(self, reference)
        self.name, self.launches = name, launches or name
        self.reference: Callable[..., Any] = reference
        self._signature = inspect.signature(reference)
        self._count, self._defaults = len(self._signature.parameters), getattr(reference, "__defaults__", None) or ()
        self._shapes = Shapes(shapes, [*self._signature.parameters], fits) if shapes or fits else None
        self.unsupported, self.prefers_torch, self.is_chosen_late = unsupported, prefers_torch, is_chosen_late
        self._kernel, self._cpu, self._layout = _place(kernel), _place(cpu), layout
        if is_chosen_late:
            self.compute = with_fallback(name, self._without_gradient, None, compile_key)
        else:
            self.compute = with_fallback(name, self.kernel, self._by_reference, compile_key)
        signature = schema(reference)
        self._tensors = signature.count("Tensor", 0, signature.index("->"))
        self.operator = torch.library.custom_op(f"sam2fast::{name}", self._operate, mutates_args=(), schema=signature)
        self.operator.register_fake(fake or self._like_reference)
        if not is_chosen_late:
            self.operator.register_autograd(self._backward, setup_context=self._save)
        OPS[name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        inputs: tuple[Any, ...] = args
        if kwargs or len(inputs) != self._count:
            inputs = self._by_position(args, kwargs)
        if self._shapes is not None:
            self._shapes.check(inputs)
        if self.is_chosen_late:
            return self._choose_late(inputs)
        return self.run(*inputs) if self.uses_kernel(*inputs) else self.reference(*inputs)

    def _by_position(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        missing = self._count - len(args)
        if not kwargs and 0 < missing <= len(self._defaults):
            return args + self._defaults[-missing:]
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.args

    def _choose_late(self, args: tuple[Any, ...]) -> Any:
        if torch.compiler.is_compiling() or _must_be_visible(args):
            return self.operator(*args)
        with torch.no_grad():  # ops that are chosen late have no gradient
            return self.compute(*(x.detach() if isinstance(x, Tensor) else x for x in args))

    def run(self, *args: Any) -> Any:
        """Runs the kernel: as an operator if a gradient may be needed or torch must see the call, else directly."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or _must_be_visible(args):
            return self.operator(*args)
        return self.compute(*args)

    def uses_kernel(self, *args: Any) -> bool:
        """Returns True if the kernel runs for these arguments.

        Raises:
            RuntimeError: If the backend is ``triton`` and the kernel cannot run.
            ValueError: If ``SAM2FAST_TORCH_OPS`` has a name that is not an op.
        """
        backend, is_left_to_torch = _dispatch.current_backend(), _is_left_to_torch(self.name, self.launches)
        is_forced = backend == "triton"
        if backend == "torch" or not (is_forced or args[0].device.type in _dispatch.KERNEL_DEVICES):
            return False
        tensors = [x for x in args if isinstance(x, Tensor)]
        reason = "is in SAM2FAST_TORCH_OPS" if is_left_to_torch else self.unsupported(*args)
        if not _dispatch.use_triton(self.launches, *tensors, unsupported_reason=reason):
            return False
        if is_forced or self.is_chosen_late:
            return True
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):  # the kernel has no backward kernel
            return False
        return not self.prefers_torch(*args)

    def kernel(self, *args: Any) -> Any:
        """Calls the kernel without fallback or operator."""
        return _load(self._kernel)(*args)

    def _operate(self, *args: Any) -> Any:
        return self.compute(*(tuple(x) if isinstance(x, list) else x for x in args))  # torch passes tuples as lists

    def _without_gradient(self, *args: Any) -> Any:
        if self.uses_kernel(*args):
            return self.kernel(*args)
        return (_load(self._cpu) if self._cpu[1] and args[0].is_cpu else self.reference)(*args)

    def _by_reference(self, *args: Any) -> Any:
        return _mapped(self._layout, self.reference(*args))

    def _like_reference(self, *args: Any) -> Any:
        return _mapped(lambda out: self._layout(out.new_empty(out.shape)), self.reference(*args))

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: self._tensors])
        ctx.rest = inputs[self._tensors :]

    def _backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Recomputes the reference and returns its gradients, or None for each input that needs no gradient."""
        needed: Sequence[bool] = ctx.needs_input_grad
        # In the backward pass, gradients are enabled only for double backward (create_graph=True).
        is_double_backward = torch.is_grad_enabled()
        leaves = [
            x if x is None or not w else x.view_as(x) if is_double_backward else x.detach().requires_grad_()
            for x, w in zip(ctx.saved_tensors, needed, strict=False)
        ]
        required = [x for x, w in zip(leaves, needed, strict=False) if w and x is not None]
        with torch.enable_grad():
            outs = self.reference(*leaves, *ctx.rest)
        each_out = (outs,) if isinstance(outs, Tensor) else outs
        pairs = [(out, g.to(out.dtype)) for out, g in zip(each_out, grads, strict=True) if out.requires_grad]
        computed: list[Tensor | None] = [None] * len(required)
        if pairs:
            ends, seeds = zip(*pairs, strict=True)
            computed = list(
                torch.autograd.grad(ends, required, seeds, allow_unused=True, create_graph=is_double_backward)
            )
        remaining = iter(computed)
        gradients = [next(remaining) if w and x is not None else None for x, w in zip(leaves, needed, strict=False)]
        return *gradients, *[None] * len(ctx.rest)


def _mapped(function: Callable[[Tensor], Tensor], outs: Any) -> Any:
    """Applies a function to a tensor, or to each tensor of a tuple."""
    return function(outs) if isinstance(outs, Tensor) else tuple(map(function, outs))


def _is_left_to_torch(op: str, kernel: str) -> bool:
    """Returns True if ``SAM2FAST_TORCH_OPS`` has the op or its kernel. Raises ValueError for unknown names."""
    listed = _dispatch.torch_ops()
    if not listed:
        return False
    if unknown := listed - _all_names():
        raise ValueError(
            f"SAM2FAST_TORCH_OPS has {', '.join(sorted(unknown))}; expected names of ops, separated by commas: "
            f"{', '.join(sorted(_all_names()))}"
        )
    return not listed.isdisjoint((op, kernel))


_is_left_to_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _all_names() -> frozenset[str]:
    """Returns the names of all ops and of their kernels. Imports the modules of all ops."""
    for module in pkgutil.iter_modules(kernels.__path__):
        if not module.name.startswith("_") and not module.name.endswith(("_triton", "_cpu")):
            import_module(f"{kernels.__name__}.{module.name}")
    return frozenset(name for op in OPS.values() for name in (op.name, op.launches) if not name.startswith("_"))


def _place(name: str) -> tuple[str, str]:
    module, _, function = f"sam2fast.kernels.{name}".rpartition(".")
    return module, function


def _load(place: tuple[str, str]) -> Callable[..., Any]:
    """Returns the function. Each call looks the function up, so that tests can replace the function."""
    function: Callable[..., Any] = getattr(sys.modules.get(place[0]) or import_module(place[0]), place[1])
    return function


_SCHEMA_TYPES = {
    Tensor: "Tensor", float: "float", int: "SymInt", bool: "bool", str: "str", torch.dtype: "ScalarType",
    tuple[int, int]: "SymInt[]", list[float]: "float[]", Sequence[float]: "float[]",
}  # fmt: skip


def schema(function: Callable[..., Any]) -> str:
    """Returns a torch operator schema for the annotations of ``function``, the same for all versions of torch."""
    hints = typing.get_type_hints(function)
    returned = hints.pop("return")
    results = [returned] if returned is Tensor else typing.get_args(returned)
    defaults = dict(zip(reversed(hints), reversed(function.__defaults__ or ()), strict=False))

    def parameter(name: str, hint: Any) -> str:
        members = typing.get_args(hint)  # of a union, which is not a UnionType on Python 3.10 if the default is None
        tensor_type = f"{_SCHEMA_TYPES[members[0]]}?" if NoneType in members else _SCHEMA_TYPES[hint]
        default = [] if defaults.get(name) == () else defaults.get(name)  # schemas allow no default dtype
        return f"{tensor_type} {name}" + ("" if name not in defaults or hint is torch.dtype else f"={default!r}")

    taken = ", ".join(parameter(name, hint) for name, hint in hints.items())
    written = ", ".join(_SCHEMA_TYPES[result] for result in results)
    return f"({taken}) -> {written if len(results) == 1 else f'({written})'}"


def _must_be_visible(arguments: tuple[Any, ...]) -> bool:
    """Returns True if the call must be a torch operator, since torch cannot trace kernel launches.

    Calls must be operators in torch.jit's tracer, dispatch modes (fake tensors), and transforms (vmap), and for tensor
    subclasses.
    """
    return (
        torch.jit.is_tracing()
        or _dispatch_modes() > 0
        or _has_transforms()
        or any(type(x) not in _PLAIN and isinstance(x, torch.Tensor) for x in arguments)
    )


def why_unsupported(
    *args: Any, leaves: str = "", alike: Sequence[Tensor] = (), channels: int | None = None, widest: int = 0
) -> str | None:
    """Returns the reason why a floating-point kernel does not support these arguments, or None.

    Args:
        args: Arguments of the op. All tensors and dtypes must be fp32, bf16 or fp16.
        leaves: Name of operations that the kernel does not support under autocast, such as "convolutions".
        alike: Tensors that must share one dtype.
        channels: Number of channels. None means the size of the last axis of the first argument.
        widest: Largest number of channels that the kernel supports. 0 means any number.
    """
    if leaves and torch.is_autocast_enabled(args[0].device.type):
        return f"leaves {leaves} to torch under autocast"
    dtypes = [x.dtype if isinstance(x, Tensor) else x for x in args if isinstance(x, Tensor | torch.dtype)]
    if wrong := [dtype for dtype in dtypes if dtype not in _dispatch.FLOATS]:
        return f"does not support {wrong[0]}"
    if len({x.dtype for x in alike}) > 1:
        return f"multiplies only matrices of one dtype, got {', '.join(str(x.dtype) for x in alike)}"
    if widest and (size := args[0].shape[-1] if channels is None else channels) > widest:
        return f"supports at most {widest} channels, got {size}"
    return None


# ---- fallback for kernels that cannot be compiled or launched on a GPU ----

# Op, device, dtypes and sizes (compile_key) of kernels that failed in this process. Failed kernels are not launched
# again.
refused: set[Hashable] = set()


def with_fallback(
    op: str,
    kernel: Callable[..., Any],
    reference: Callable[..., Any] | None = None,
    compile_key: Callable[..., Hashable] | None = None,
) -> Callable[..., Any]:
    """Returns a function that calls ``kernel``, or ``reference`` if the GPU cannot run the kernel. Warns once.

    With the backend ``triton``, the function raises the kernel's errors.

    Args:
        op: Name of the op, for the warning.
        kernel: Function that launches the kernel.
        reference: Reference implementation with the arguments of ``kernel``. If None, ``kernel`` is called with the
            backend ``torch``.
        compile_key: Function that returns a call's sizes that are constants in the kernel. Failures are kept by sizes.
    """

    @functools.wraps(kernel)
    def compute(*arguments: Any) -> Any:
        if not refused or _key(op, compile_key, arguments) not in refused or _dispatch.current_backend() == "triton":
            try:
                return kernel(*arguments)
            except Exception as error:
                if not (_may_launch(arguments) and _is_obstacle(error)) or _dispatch.current_backend() == "triton":
                    raise
                refused.add(_key(op, compile_key, arguments))
                _log.warning(
                    "the kernel of %s does not run on this GPU; its reference implementation in torch runs instead: "
                    "%s: %s", op, type(error).__name__, error,
                )  # fmt: skip
        if reference is not None:
            return reference(*arguments)
        with _dispatch.backend("torch"):
            return kernel(*arguments)

    return compute


def _may_launch(arguments: tuple[Any, ...]) -> bool:
    """Returns True if a kernel may have raised an error: for CUDA tensors, or in Triton's interpreter."""
    return _dispatch.interpreting() or any(isinstance(x, Tensor) and x.is_cuda for x in arguments)


def _key(op: str, compile_key: Callable[..., Hashable] | None, arguments: tuple[Any, ...]) -> Hashable:
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    return op, tensors[0].device, tuple(x.dtype for x in tensors), compile_key and compile_key(*arguments)


def _is_obstacle(error: Exception) -> bool:
    """Returns True if Triton, a compiler or the driver raised the error. Returns False for a lack of memory."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    # Triton's own errors, such as compilation errors or too little shared memory, have no public base class. Compiler
    # passes and launches raise RuntimeError. The build of a launcher raises OSError and SubprocessError.
    is_of_triton = type(error).__module__.partition(".")[0] == "triton"
    return is_of_triton or isinstance(error, RuntimeError | OSError | subprocess.SubprocessError)


class Shapes:
    """Checks shapes of arguments against a sentence such as ``"x (..., K), weight (N, K) and bias (N)"``.

    A symbol stands for the same size in all shapes, and ``...`` for the same leading axes. An axis ``B or 1`` has size
    B or 1. A symbol may consist of several words, such as ``4 * H``. Arguments may be None.

    Args:
        sentence: Names and shapes of arguments. Words such as "and" are ignored.
        names: Names of the op's arguments.
        fits: Function of the op's arguments that returns False if a condition other than shapes does not hold.
    """

    def __init__(self, sentence: str, names: Sequence[str], fits: Callable[..., bool] | None) -> None:
        self._sentence, self._names, self._fits = sentence, names, fits
        # Each argument's position, True for leading axes, and axes: pairs (symbol, True if the size may also be 1).
        self._axes: list[tuple[int, bool, list[tuple[str, bool]]]] = []
        for words, shape in _PART.findall(sentence):
            axes = [(axis.removesuffix(" or 1"), axis.endswith(" or 1")) for axis in shape.split(", ") if axis != "..."]
            positions = [names.index(word) for word in re.findall(r"\w+", words) if word in names]
            self._axes += [(position, "..." in shape, axes) for position in positions]
        self._numbers = {axis: int(axis) for _, _, axes in self._axes for axis, _ in axes if axis.isdigit()}
        self._count = 1 + max((position for position, _, _ in self._axes), default=-1)
        self._are_known = functools.lru_cache(maxsize=1024)(self._are_right)

    def check(self, args: Sequence[Any]) -> None:
        """Checks the shapes of all positional arguments.

        Raises:
            ValueError: If the arguments do not match the sentence.
        """
        shapes = tuple([None if x is None else x.shape for x in args[: self._count]])
        try:
            are_right = self._are_right(shapes) if torch.compiler.is_compiling() else self._are_known(shapes)
        except TypeError:  # a tracer's symbolic sizes have no hash
            are_right = self._are_right(shapes)
        if not are_right or self._fits is not None and not self._fits(*args):
            shown = (tuple(x.shape) if isinstance(x, Tensor) else x for x in args)
            received = [f"{name} {x}" for name, x in zip(self._names, shown, strict=True)]
            raise ValueError(f"expected {self._sentence}, got {', '.join(received)}")

    def _are_right(self, shapes: Sequence[Sequence[int] | None]) -> bool:
        sizes: dict[str, Any] = dict(self._numbers)
        for position, has_leading, axes in self._axes:
            if (shape := shapes[position]) is None:
                continue
            start = len(shape) - len(axes)
            if start < 0 or (start > 0 and not has_leading):
                return False
            if has_leading and sizes.setdefault("...", shape[:start]) != shape[:start]:
                return False
            for size, (axis, is_shared) in zip(shape[start:], axes, strict=True):
                if not (is_shared and size == 1) and sizes.setdefault(axis, size) != size:
                    return False
        return True
