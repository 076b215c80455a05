"""What the graph of an exported program may call: functions of tensors and sizes that reach nothing else."""

import re

import torch

# Of torch, each a function of its arguments that checks their sizes. Not from_file, which maps any file, nor those that
# give memory as it is (empty), reach beyond a tensor (set_, resize_, as_strided), or wrap what is no tensor.
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
IN_PLACE = ("add_", "copy_", "detach_", "div_", "fill_", "mul_", "sub_", "zero_")
ATEN = frozenset((*POINTWISE, *SHAPES, *REDUCTIONS, *PRODUCTS, *FACTS, *IN_PLACE))
# A part of a graph in which autocast or gradients are off; the part is looked through as the rest is.
PARTS = frozenset(("wrap_with_autocast", "wrap_with_set_grad_enabled"))
# Python's arithmetic of sizes, but for powers and shifts, of which a few make numbers without end.
SIZES = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)|"
    r"math\.(ceil|floor|trunc)|torch\.sym_(float|int|ite|max|min|not|sum)"
)
OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(\.\w+)?", re.ASCII)
# What an operator may be given as a text, such as gelu's way of approximating, and the devices that autocast is for.
TEXTS = frozenset(
    (*("none", "tanh", "floor", "trunc", "ij", "xy", "constant", "reflect", "replicate"), *("cpu", "cuda", "mps"))
)


def is_known(target: str, kernels: bool) -> bool:
    """Whether a graph may call what it names.

    Args:
        kernels: also this package's operators. They take what their callers have checked, so that on a GPU wrong sizes
            make them read other memory.
    """
    found = OPERATOR.fullmatch(target)
    if found is None:
        return SIZES.fullmatch(target) is not None
    namespace, name, overload = found[1], found[2], found[3] or ""
    if namespace == "higher_order":
        return name in PARTS and not overload
    overload = overload.removeprefix(".")
    if namespace == "aten":
        return name in ATEN and (schema := _schema(namespace, name, overload)) is not None and _is_pure(name, schema)
    allowed = namespace == "sam2fast" and kernels and overload == "default"
    return allowed and _schema(namespace, name, overload) is not None


def _schema(namespace: str, name: str, overload: str) -> torch.FunctionSchema | None:
    """Of one overload of an operator; none for all else that has such a name, such as methods of Python's objects."""
    if not overload or "__" in name + overload:
        return None
    found = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    return found._schema if isinstance(found, torch._ops.OpOverload) else None


def _is_pure(name: str, schema: torch.FunctionSchema) -> bool:
    """Whether no tensor is written to, or made larger, but for the first argument of those that are meant to."""
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments]
    is_out = any(argument.is_out for argument in schema.arguments)
    return not is_out and not any(written[1:]) and (name in IN_PLACE or not any(written))
