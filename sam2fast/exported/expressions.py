"""Sizes and conditions in the files of exported programs, which torch evaluates as Python, also by way of sympy."""

import ast
import keyword
import re

FUNCTIONS = frozenset(
    (
        *("Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "IntTrueDiv"),
        *("FloatTrueDiv", "TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt", "ToFloat", "Where"),
        *("Eq", "Ne", "Ge", "Le", "Gt", "Lt", "And", "Or", "Not", "Identity", "Add", "Mul", "Abs"),
        *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"),
    )
)
NUMBERS = ("Integer", "Rational", "Float")  # as sympy writes them
VALUES = frozenset(("true", "false", "oo", "int_oo"))
# Of those with u torch counts up to the largest number, one by one.
SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,4}", re.ASCII)
NUMBER = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?", re.ASCII)
# What sympy is told of symbols.
ASSUMPTIONS = ("integer", "positive", "nonnegative", "negative", "nonpositive", "real", "finite", "evaluate")
MEASURES = frozenset(("size", "stride", "storage_offset"))
# Not powers and shifts, of which a few make numbers without end.
OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
LONGEST, LARGEST_NUMBER, LARGEST_PRECISION = 10_000, 1 << 63, 1_000
# Without those of private attributes.
VARIABLE = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)
# Of torch's code of a graph itself. A result under such a name would be in the place of the module, or of torch.
TAKEN = ("self", "torch", "math", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree", "getattr", "args")


def is_variable(name: str) -> bool:
    """Whether torch can write a name into code without another meaning than that of a variable."""
    return VARIABLE.fullmatch(name) is not None and not keyword.iskeyword(name) and name not in TAKEN


def is_expression(text: str, guard: bool) -> bool:
    """Whether there is nothing but numbers, symbols and functions of these.

    Args:
        guard: also sizes of the arguments, as ``L['x'].size()[0]``.
    """
    # torch and sympy take line ends out before they evaluate it, so that the text would not be the one that is parsed.
    if len(text) > LONGEST or not (text.isascii() and text.isprintable()) or any(x in text for x in '\\#"'):
        return False
    try:
        return _is_term(ast.parse(text.strip(), mode="eval").body, guard)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _is_term(node: ast.AST, guard: bool) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (bool, float) or (type(value) is int and abs(value) <= LARGEST_NUMBER)
        case ast.Name(id=name):
            return name in VALUES or SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(operand=operand):
            return _is_term(operand, guard)
        case ast.BinOp(left=left, op=operation, right=right):
            return isinstance(operation, OPERATIONS) and _is_term(left, guard) and _is_term(right, guard)
        case ast.BoolOp(values=values):
            return all(_is_term(x, guard) for x in values)
        case ast.Compare(left=left, comparators=others):
            return all(_is_term(x, guard) for x in (left, *others))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            return _is_call(name, arguments, guard) and all(map(_is_keyword, keywords))
    return guard and (_is_size(node) or _is_argument(node))


def _is_call(name: str, arguments: list[ast.expr], guard: bool) -> bool:
    """A text would be evaluated in its turn, but for the names of symbols, and numbers."""
    texts = [x.value for x in arguments if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    if name == "Symbol":
        return len(texts) == len(arguments) == 1 and SYMBOL.fullmatch(texts[0]) is not None
    if name in NUMBERS:
        others = [x for x in arguments if not (isinstance(x, ast.Constant) and isinstance(x.value, str))]
        return all(map(NUMBER.fullmatch, texts)) and all(_is_term(x, guard) for x in others)
    return name in FUNCTIONS and all(_is_term(x, guard) for x in arguments)


def _is_keyword(given: ast.keyword) -> bool:
    value = given.value.value if isinstance(given.value, ast.Constant) else None
    if given.arg == "precision":
        return type(value) is int and value <= LARGEST_PRECISION
    return given.arg in ASSUMPTIONS and type(value) is bool


def _is_size(node: ast.AST) -> bool:
    """``L['x'].size()[0]``, ``L['x'].shape[0]``, ``L['x'].storage_offset()``."""
    match node:
        case ast.Subscript(value=ast.Attribute(value=argument, attr="shape"), slice=ast.Constant(value=place)):
            return type(place) is int and _is_argument(argument)
        case ast.Subscript(value=sizes, slice=ast.Constant(value=place)) if isinstance(sizes, ast.Call):
            return type(place) is int and _is_size(sizes)
        case ast.Call(func=ast.Attribute(value=argument, attr=name), args=[], keywords=[]):
            return name in MEASURES and _is_argument(argument)
    return False


def _is_argument(node: ast.AST) -> bool:
    """``L['x']``, or a part of it."""
    match node:
        case ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name))):
            return is_variable(name)
        case ast.Subscript(value=holder, slice=ast.Constant(value=place)):
            return (type(place) is int or (type(place) is str and is_variable(place))) and _is_argument(holder)
    return False
