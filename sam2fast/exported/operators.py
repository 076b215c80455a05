"""What the graph of an exported program may call: functions of tensors and sizes that reach nothing else."""

import re
from typing import TYPE_CHECKING, Any

import torch

from sam2fast.exported.errors import ArtifactError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# Of torch, each a function of its arguments that checks them, but for what UNCHECKED and make_safe see to. Not
# from_file, which maps any file, nor those that give memory as it is (empty), reach beyond a tensor (set_, resize_,
# as_strided), or wrap what is no tensor.
POINTWISE = (
    *("abs", "add", "addcmul", "bitwise_and", "bitwise_not", "bitwise_or", "ceil", "clamp", "clamp_max", "clamp_min"),
    *("cos", "div", "eq", "erf", "exp", "floor", "floor_divide", "ge", "gelu", "gt", "hardtanh", "isfinite", "isinf"),
    *("isnan", "le", "leaky_relu", "log", "log1p", "logical_and", "logical_not", "logical_or", "logical_xor", "lt"),
    *("masked_fill", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "relu", "remainder", "round"),
    *("rsqrt", "rsub", "sigmoid", "sign", "silu", "sin", "softplus", "sqrt", "square", "sub", "tan", "tanh", "trunc"),
    *("where", "_to_copy", "to", "type_as", "dropout"),
)
SHAPES = (
    *("alias", "arange", "broadcast_to", "cat", "chunk", "clone", "constant_pad_nd", "contiguous", "copy", "detach"),
    *("expand", "expand_as", "eye", "flatten", "flip", "full", "full_like", "index", "index_select", "lift_fresh_copy"),
    *("linspace", "meshgrid", "movedim", "mT", "narrow", "new_full", "new_ones", "new_zeros", "ones", "ones_like"),
    *("pad", "permute", "repeat", "reshape", "roll", "scalar_tensor", "select", "select_scatter", "slice"),
    *("slice_scatter", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "t", "tile", "transpose"),
    *("unbind", "unflatten", "unsqueeze", "view", "view_as", "zeros", "zeros_like", "_unsafe_view"),
)
REDUCTIONS = (
    *("all", "amax", "amin", "any", "argmax", "argmin", "cumsum", "max", "mean", "min", "prod", "std", "sum", "var"),
    *("log_softmax", "softmax", "_softmax", "_log_softmax", "layer_norm", "native_layer_norm", "group_norm"),
    *("native_group_norm", "avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "topk", "sort"),
)
PRODUCTS = (
    *("addmm", "baddbmm", "bmm", "linear", "matmul", "mm", "scaled_dot_product_attention"),
    *("conv2d", "conv_transpose2d", "convolution"),
    *("upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d"),
)
# About types and sizes of tensors; these have no effect but to fail.
FACTS = (
    *("sym_size", "sym_stride", "sym_numel", "sym_storage_offset", "sym_constrain_range"),
    *("sym_constrain_range_for_size", "promote_types", "_assert_scalar", "_assert_tensor_metadata"),
)
# Overloads with these are left out, which our programs have not: in integers the quotient of the least number and -1,
# truncated, ends the process, and a picture that is scaled by another number than its sizes is read beyond its ends.
UNCHECKED = frozenset(("rounding_mode", "scales_h"))
IN_PLACE = ("add_", "copy_", "detach_", "div_", "fill_", "mul_", "sub_", "zero_")
ATEN = frozenset((*POINTWISE, *SHAPES, *REDUCTIONS, *PRODUCTS, *FACTS, *IN_PLACE))
# A part of a graph in which autocast or gradients are off; the part is looked through as the rest is.
PARTS = frozenset(("wrap_with_autocast", "wrap_with_set_grad_enabled"))
# Python's arithmetic of sizes, but for powers and shifts, of which a few make numbers without end.
ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)|"
    r"math\.(ceil|floor|trunc)|torch\.sym_(float|int|ite|max|min|not|sum)"
)
OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(\.\w+)?", re.ASCII)
# What an operator may be given as a text, such as gelu's way of approximating, and the devices that autocast is for.
TEXTS = frozenset((*("none", "tanh", "ij", "xy", "constant", "reflect", "replicate"), *("cpu", "cuda", "mps")))
# Not every kernel is made for tensors of the others, which are no plain numbers.
DTYPES = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
)


def is_known(target: str, kernels: bool) -> bool:
    """Whether a graph may call what it names.

    Args:
        kernels: also this package's operators. They take what their callers have checked, so that on a GPU wrong sizes
            make them read other memory.
    """
    found = OPERATOR.fullmatch(target)
    if found is None:
        return ARITHMETIC.fullmatch(target) is not None
    namespace, name, overload = found[1], found[2], found[3] or ""
    if namespace == "higher_order":
        return name in PARTS and not overload
    overload = overload.removeprefix(".")
    if namespace == "aten":
        return name in ATEN and (schema := _schema(namespace, name, overload)) is not None and _is_pure(name, schema)
    allowed = namespace == "sam2fast" and kernels and overload == "default"
    return allowed and _schema(namespace, name, overload) is not None


def _schema(namespace: str, name: str, overload: str) -> torch.FunctionSchema | None:
    """Of one overload of an operator; none for all else that has such a name, such as methods of Python's objects.

    TorchScript has functions of numbers, lists and texts under the names of those of tensors. They check less, some do
    not even look whether they divide by zero, and torch.export writes none of them.
    """
    if not overload or "__" in name + overload:
        return None
    found = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload) or not torch._C._dispatch_has_kernel(found.name()):
        return None
    return found._schema


def _is_pure(name: str, schema: torch.FunctionSchema) -> bool:
    """Whether it has no argument that is unchecked, and writes to no tensor, or makes it larger, that is not meant."""
    if any(argument.name in UNCHECKED for argument in schema.arguments):
        return False
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    is_out = any(argument.is_out for argument in schema.arguments)
    return not is_out and not any(written[1:]) and (name in IN_PLACE or not any(written))


def make_safe(program: "ExportedProgram") -> None:
    """Sees to what torch's operators do not check, in a program that torch has read, and that has not been run yet.

    Raises:
        ArtifactError: a call has a number, or anything else, in the place of a dtype or a layout, or is one of
            attention that shares keys among heads.
    """
    for part in program.graph_module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            if isinstance(node.target, torch._ops.OpOverload):
                given = _arguments(node)
                _check_types(given, node.target._schema)
                if node.target is torch.ops.aten.scaled_dot_product_attention.default:
                    if (shared := given.get("enable_gqa", False)) is not False:  # torch divides by their number
                        raise ArtifactError(f"attention is given {str(shared)[:80]!r} as enable_gqa")
                    _compare_lengths(node, given.get("key"), given.get("value"))
        part.recompile()


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)) | node.kwargs


def _check_types(given: dict[str, Any], schema: torch.FunctionSchema) -> None:
    """torch takes any number for a dtype, a layout or a memory format, and reads beyond its tables of them."""
    for argument in schema.arguments:
        value = given.get(argument.name)
        if value is not None and not _is_of_type(value, str(argument.real_type)):
            raise ArtifactError(f"{schema.name} is given {str(value)[:80]!r} as {argument.name}")


def _is_of_type(value: object, kind: str) -> bool:
    if "ScalarType" in kind:
        is_computed = isinstance(value, torch.fx.Node) and value.target is torch.ops.aten.promote_types.default
        return is_computed or (isinstance(value, torch.dtype) and value in DTYPES)
    if "Layout" in kind:
        return value is torch.strided
    return "MemoryFormat" not in kind or isinstance(value, torch.memory_format)


def _compare_lengths(attention: torch.fx.Node, key: Any, value: Any) -> None:
    """Makes a call of attention fail unless there are as many keys as values.

    torch's kernel for CPUs counts the values alone, and reads beyond the keys if these are fewer. The values become a
    view of themselves with as many rows as there are keys, which fails for any other number. A view that attention
    reads cannot be left out, as a check beside it could. What the file says about sizes is not relied on.
    """
    if not isinstance(key, torch.fx.Node) or not isinstance(value, torch.fx.Node):
        raise ArtifactError("attention is given no keys or no values")
    with attention.graph.inserting_before(attention):
        count = attention.graph.call_function(torch.ops.aten.sym_size.int, (key, -2))
        same = attention.graph.call_function(torch.ops.aten.unflatten.int, (value, -2, [count]))
    count.meta = attention.meta | {"val": key.meta["val"].shape[-2]}
    same.meta = attention.meta | {"val": value.meta["val"]}
    if "value" in attention.kwargs:
        attention.update_kwarg("value", same)
    else:
        attention.update_arg(2, same)
