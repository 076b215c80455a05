"""The texts in the graph of an exported program: which torch reads as what, and what ours have there."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

import torch

from sam2fast.exported.expressions import SYMBOL, is_expression, is_variable
from sam2fast.exported.operators import DTYPES, TEXTS, is_known

RAW = re.compile(r"(weight|tensor)_\d+", re.ASCII)  # entries that are a tensor's bytes
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # of arguments and results
# Names of weights, arguments and parts: torch writes them into the Python code that it makes of a graph.
IDENTIFIER = re.compile(r"((?!__)\w+(\.(?!__)\w+)*)?", re.ASCII)
VERSION = re.compile(r"[\w.+<=-]*", re.ASCII)
# Kinds of arguments. Others are objects, functions, or texts by which tensors are found.
ARGUMENTS = frozenset(
    (
        *("as_none", "as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors", "as_nested_tensors"),
        *("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_strings", "as_name"),
        *("as_sym_int", "as_sym_ints", "as_sym_float", "as_sym_floats", "as_sym_bool", "as_sym_bools", "as_expr"),
        *("as_scalar_type", "as_memory_format", "as_layout", "as_device", "as_graph"),
    )
)
# What arguments and results are for the graph.
ROLES = frozenset(
    (
        *("user_input", "parameter", "buffer", "tensor_constant", "constant_input"),
        *("user_output", "buffer_mutation", "parameter_mutation", "user_input_mutation"),
    )
)
VARIABLES = ("name", "as_name", "user_input_name", "forward_arg_names")  # in torch's code, each without a dot
WEIGHTS = ("parameter_name", "buffer_name", "tensor_constant_name")
NUMBERS = ("Infinity", "-Infinity", "NaN")  # which JSON has not
DEVICES = ("cpu", "cuda", "mps")
# About nodes, which torch takes for no more than texts.
NOTES = frozenset(("stack_trace", "nn_module_stack", "torch_fn", "from_node"))


class Kind(Enum):
    """What a text is that is not known by the key it lies under."""

    KEY = auto()  # a key itself, of no mapping of those below
    ROLE = auto()  # what an argument or a result is for the graph
    WEIGHT = auto()  # a weight's name
    SYMBOL = auto()  # a size's name, with its limits below it
    ARGUMENT = auto()  # an operator's name for an argument
    NOTE = auto()  # about a node


MAPPINGS = {
    "config": Kind.WEIGHT,
    "input_specs": Kind.ROLE,
    "output_specs": Kind.ROLE,
    "range_constraints": Kind.SYMBOL,
}


def all_texts(value: Any, key: str | Kind = Kind.KEY) -> Iterator[tuple[str | Kind, Any]]:
    """Everything in nested dicts and lists that is neither, with the key that it lies under; and keys, with their kind.

    The notes that torch keeps about nodes are left out, unless there is something else among them.
    """
    if isinstance(value, dict):
        if key in ("expr_str", "guards_code"):
            yield key, ""  # sympy takes mappings apart, and evaluates what is in them
        for name, child in value.items():
            yield MAPPINGS.get(key, Kind.KEY) if isinstance(key, str) else Kind.KEY, name
            if name == "metadata" and isinstance(child, dict) and "target" in value:
                wrong = [note for note, text in child.items() if note not in NOTES or not isinstance(text, str)]
                yield from ((Kind.NOTE, note) for note in wrong)
            else:
                # Of operators' arguments, which alone lie right below inputs: those of graphs have no names there.
                yield from all_texts(child, Kind.ARGUMENT if (key, name) == ("inputs", "name") else name)
    elif isinstance(value, list):
        for child in value:
            yield from all_texts(child, key)
    else:
        yield key, value


def wrong_text(key: str | Kind, text: str, kernels: bool) -> str | None:
    """What is wrong about a text under a key, or of a kind, with ``{}`` for the text; None for nothing."""
    named = "has the name {}, which could run code"
    if key == "target":
        if is_known(text, kernels):
            return None
        more = "" if kernels or not is_known(text, True) else "; allow_kernels=True allows it"
        return "calls {}, which is no operator that our programs consist of" + more
    if key in ("expr_str", "guards_code"):
        return None if is_expression(text, key == "guards_code") else "evaluates {}, which is no arithmetic"
    if key in ("in_spec", "out_spec"):
        plain = _is_plain(json.loads(text))
        return None if plain else "has arguments or results in {}, which could import code"
    if key in ("as_string", "as_strings"):
        return None if text in TEXTS else "gives an operator the text {}"
    if key == "path_name":
        return None if RAW.fullmatch(text) else "holds a tensor in {}, which could run code"
    if key is Kind.KEY and text.startswith("as_") and text not in ARGUMENTS:
        return "has an argument of the kind {}"
    if key is Kind.ROLE and text not in ROLES:
        return "has an argument of the kind {}"
    if key is Kind.NOTE:
        return "has notes that our programs do not have ({})"
    if key is Kind.SYMBOL:
        return None if SYMBOL.fullmatch(text) else "has limits of {}, which is no size"
    if key in VARIABLES:
        return None if text == "" or is_variable(text) else named
    if key is Kind.WEIGHT or key in WEIGHTS:
        return None if all(map(_is_part, text.split("."))) else named
    if key == "type":
        return None if text in DEVICES else named
    if key == "torch_version":
        return None if VERSION.fullmatch(text) else named
    if isinstance(key, Kind) or key in ("fqn", "verifiers", "dialect"):
        return None if IDENTIFIER.fullmatch(text) else named
    return None if key in ("as_float", "as_floats") and text in NUMBERS else f"has the text {{}} as {key}"


def are_tensors(value: Any) -> bool:
    """Whether there are but plain tensors and numbers in nested tuples, lists and dicts, the latter under plain names.

    Of the example that a program was made with, torch writes the names into the code of its checks of arguments.
    """
    if type(value) in (tuple, list):
        return all(map(are_tensors, value))
    if type(value) in (dict, OrderedDict):
        return all(type(x) is str and IDENTIFIER.fullmatch(x) for x in value) and all(map(are_tensors, value.values()))
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return value.layout is torch.strided and not value.is_nested and value.dtype in DTYPES
    return value is None or type(value) in (bool, int, float)


def _is_part(name: str) -> bool:
    """Whether a part of a weight's name, which becomes an attribute of a module, is none that modules have anyway."""
    is_free = not name.startswith("_") and not hasattr(torch.fx.GraphModule, name)
    return name != "" and is_free and (name.isdigit() or is_variable(name)) and name.isascii()


def _is_plain(spec: Any) -> bool:
    """Whether a tree of arguments or results has tuples, lists and dicts only; others name modules to be imported.

    The keys of dicts are names of arguments, or might be, which torch writes into code.
    """
    version, top = spec
    trees = [top]
    while trees:
        tree = trees.pop()
        if tree["type"] not in CONTAINERS:
            return False
        keys = json.loads(tree["context"] or "null")
        if tree["type"] == "builtins.dict":
            if not isinstance(keys, list) or not all(isinstance(key, str) and is_variable(key) for key in keys):
                return False
            if len(set(keys)) != len(keys) or len(keys) != len(tree["children_spec"]):
                return False
        elif keys is not None:
            return False
        trees += tree["children_spec"]
    return version == 1
