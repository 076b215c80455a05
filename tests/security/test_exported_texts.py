"""Exported programs whose texts look harmless, and are code in what torch makes of them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rewritten_programs import rewritten, save_rows, with_graph, with_text

from sam2fast.exported import ArtifactError, check_program, load_program, operators

LEAF = {"type": None, "context": None, "children_spec": []}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return save_rows(tmp_path_factory.mktemp("program") / "rows.pt2")


def torch_runs(hostile: Path) -> None:
    with contextlib.suppress(Exception):
        torch.export.load(hostile).module()(torch.ones(8, 4))


def with_keyword(key: str, constant: bool = False):
    """The argument under a keyword; ``constant`` for a graph that does not read it, but the buffer in its place."""
    tree = {"type": "builtins.tuple", "context": "null"}
    keywords = {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [LEAF]}
    spec = [1, tree | {"children_spec": [tree | {"children_spec": []}, keywords]}]

    def edit(node: dict[str, Any]) -> None:
        if "in_spec" in node:
            node |= {"in_spec": json.dumps(spec), "forward_arg_names": None}
        if constant and "input_specs" in node:
            node["input_specs"] = [x for x in node["input_specs"] if "user_input" not in x]
        if constant and "nodes" in node:
            node["inputs"] = [x for x in node["inputs"] if x != {"as_tensor": {"name": "x"}}]
        if constant and node.get("as_tensor") == {"name": "x"}:
            node["as_tensor"] = {"name": "b_offset"}

    return with_graph(edit)


def with_texts(expression: str | None = None, guard: str | None = None):
    def edit(node: dict[str, Any]) -> None:
        if expression is not None and "expr_str" in node:
            node["expr_str"] = expression
        if guard is not None and "guards_code" in node:
            node["guards_code"] = [guard]

    return with_graph(edit)


def across_lines(code: str) -> str:
    """A text that Python joins to one of harmless characters, and that spells the code once its line ends are gone."""
    return "".join(c if c.isalnum() or c == "_" else f"\\\nx{ord(c):02x}" for c in code)


def test_keywords_of_arguments(program, tmp_path):
    """torch writes them into the head of a function, as they are."""
    canary = tmp_path / "canary"
    key = f"x=__import__('os').system('touch {canary}')"
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_keyword(key, constant=True))
    with pytest.raises(ArtifactError, match="has arguments or results in .*, which could import code"):
        load_program(hostile)
    assert not canary.exists()
    torch_runs(hostile)
    assert canary.exists()  # otherwise the above shows nothing


@pytest.mark.parametrize("key", ["", "a.b", "class", "__class__", "1x", "x\n", "ключ", "L['x']"])
def test_keywords_that_are_no_names(program, tmp_path, key):
    with pytest.raises(ArtifactError, match="has arguments or results in"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_keyword(key)))


def test_an_honest_keyword(program, tmp_path):
    loaded = load_program(rewritten(program, tmp_path / "sound.pt2", with_keyword("x"))).module()
    assert loaded(x=torch.ones(8, 4)).shape == (8, 4)


EXPRESSION = "Abs('{}')", "__import__('os').system('touch {}')"
GUARD = "'{}' == 1", '" + str(__import__("os").system("touch {}")) + "'


@pytest.mark.parametrize(("place", "text", "code"), [("expression", *EXPRESSION), ("guard", *GUARD)])
def test_texts_across_lines(program, tmp_path, place, text, code):
    canary = tmp_path / "canary"
    change = with_texts(**{place: text.format(across_lines(code.format(canary)))})
    hostile = rewritten(program, tmp_path / "hostile.pt2", change)
    with pytest.raises(ArtifactError, match="no arithmetic"):
        load_program(hostile)
    assert not canary.exists()
    torch_runs(hostile)
    assert canary.exists()  # otherwise the above shows nothing


ANYWHERE = (
    *("Abs('exit')", "Max('s0', 1)", "Eq('s0', 's1')", "Symbol('open')", "Symbol('s0', 's1')", "Integer('s0')"),
    *("Symbol('s0', cls='x')", "Symbol('s0', positive=open)", "Float('1', precision=9999999)", "s0(1)", "(1)(2)"),
    *("1 # '", "1\n+1", "1 + \\\n 1", "1\t+1", "\u017f0", "Symbol('s٣')", "log10", "E1", "'s0'", "L", "Max(*s0)"),
    *("Max(**s0)", "Integer(True)('x')", "Rational('1/2')(1)", "Symbol", "s0[0]"),
)


@pytest.mark.parametrize("text", [*ANYWHERE, "L['x']", "s0.size()", "L['x'].size()[0]"])
def test_texts_that_are_no_expressions(program, tmp_path, text):
    with pytest.raises(ArtifactError, match="no arithmetic"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_texts(expression=text)))


@pytest.mark.parametrize("text", [*ANYWHERE, "L['a b'].size()[0] == 1", "L['x'](1)", "L['x'].size", "L['x']['__x']"])
def test_texts_that_are_no_guards(program, tmp_path, text):
    with pytest.raises(ArtifactError, match="no arithmetic"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_texts(guard=text)))


@pytest.mark.parametrize(
    "text",
    ["Symbol('s77', positive=True, integer=True)", "Add(Mul(Integer(2), Symbol('u0')), Rational(1, 2))", "s0 + 1"],
)
def test_honest_expressions(program, tmp_path, text):
    check_program(rewritten(program, tmp_path / "sound.pt2", with_texts(expression=text)))


@pytest.mark.parametrize("text", ["L['x'].size()[0] <= 64", "(1 + L['x'].size()[1]) == L['x'].size()[1] * 2", "True"])
def test_honest_guards(program, tmp_path, text):
    check_program(rewritten(program, tmp_path / "sound.pt2", with_texts(guard=text)))


@pytest.mark.parametrize("name", ["self", "torch", "getattr", "class", "torch.x", "1x", "x\n", "__class__"])
def test_results_in_the_place_of_something_else(program, tmp_path, name):
    """Methods of a tensor that is called self are in reach of those graphs that call their parts."""
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_text("gelu", name))
    with pytest.raises(ArtifactError, match="has the name .*, which could run code"):
        load_program(hostile)
    if name == "self":
        assert "self = torch.ops" in torch.export.load(hostile).module().code  # otherwise the above shows nothing


@pytest.mark.parametrize("name", ["forward", "_modules.x", "graph.x", "state_dict.x", "class.x", "a..b", ".a", "a."])
def test_weights_in_the_place_of_a_modules_own(program, tmp_path, name):
    with pytest.raises(ArtifactError, match="has the name .*, which could run code"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_text("offset", name)))


@pytest.mark.parametrize(
    ("holder", "key"),
    [("tensor_meta", "storage_offset"), ("arg", "as_int"), ("graph", "is_single_tensor_return"), ("as_expr", "hint")],
)
def test_texts_where_there_are_none(program, tmp_path, holder, key):
    def edit(node: dict[str, Any]) -> None:
        if isinstance(node.get(holder), dict):
            node[holder][key] = "x"
        if holder == "tensor_meta" and "config" in node:
            for entry in node["config"].values():
                entry[holder][key] = "x"

    def everywhere(name: str, content: bytes) -> list[tuple[str, bytes | str]]:
        if name.endswith("weights_config.json") and holder == "tensor_meta":
            config = json.loads(content)
            edit(config)
            return [(name, json.dumps(config))]
        return list(with_graph(edit)(name, content))

    with pytest.raises(ArtifactError, match="has the text 'x' as"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", everywhere))


def test_nothing_hides_among_the_notes(program, tmp_path):
    """Notes about nodes are not looked through; a weight may have their name."""

    def change(name: str, content: bytes) -> list[tuple[str, bytes | str]]:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            config["config"]["metadata"] = {"path_name": "opaque_obj_0", "is_param": "x", "use_pickle": "x"}
            content = json.dumps(config).encode()
        return [(name, content)]

    with pytest.raises(ArtifactError, match="could run code"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", change))


@pytest.mark.parametrize("note", [{"source_fn_stack": "x,torch.hub.load"}, {"custom": "{}"}, {"stack_trace": 7}])
def test_notes_that_our_programs_do_not_have(program, tmp_path, note):
    def edit(node: dict[str, Any]) -> None:
        if "target" in node:
            node["metadata"] |= note

    with pytest.raises(ArtifactError, match="has notes that our programs do not have"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


@pytest.mark.parametrize("group", ["custom_obj", "token", "gradient_to_parameter"])
def test_arguments_that_are_no_tensors(program, tmp_path, group):
    with pytest.raises(ArtifactError, match="has an argument of the kind"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_text("buffer", group)))


def test_pickles_that_are_tensors_only_elsewhere(program, tmp_path):
    """torch tries once more, without limits, where its first reading fails: so the check reads in the same way."""

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name.endswith("sample_inputs/model.pt"):
            content = content.replace(b"\x03\x00\x00\x00cpu", b"\x03\x00\x00\x00hpu")  # a device that is not here
        return [(name, content)]

    hostile = rewritten(program, tmp_path / "hostile.pt2", change)
    assert hostile.read_bytes() != rewritten(program, tmp_path / "sound.pt2", lambda *x: [x]).read_bytes()
    with pytest.raises(ArtifactError, match="something else than tensors"):
        load_program(hostile)


def with_example(example: object):
    """Other arguments as those that the program was made with."""

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name.endswith("sample_inputs/model.pt"):
            file = io.BytesIO()
            torch.save(example, file)
            content = file.getvalue()
        return [(name, content)]

    return change


def test_keys_of_the_example(program, tmp_path):
    """torch writes them into the messages of its checks of arguments, each a text in code."""
    canary = tmp_path / "canary"
    key = f'"+str(__import__("os").system("touch {canary}"))+"'
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_example((({key: torch.ones(6, 4)},), {})))
    with pytest.raises(ArtifactError, match="something else than named tensors"):
        load_program(hostile)
    assert not canary.exists()
    torch_runs(hostile)
    assert canary.exists()  # otherwise the above shows nothing


@pytest.mark.parametrize("example", [{1: 2}, {"a'b": 1}, {"__x__": 1}, "text", {1, 2}, torch.Size([1]), {("a",): 1}])
def test_examples_that_are_no_tensors(program, tmp_path, example):
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_example((([torch.ones(6, 4), example],), {})))
    with pytest.raises(ArtifactError, match="something else than"):
        check_program(hostile)


def test_an_honest_example(program, tmp_path):
    check_program(
        rewritten(program, tmp_path / "sound.pt2", with_example((([torch.ones(2)], None), {"mask": {"a": 1}})))
    )


@pytest.mark.parametrize("key", ["expr_str", "guards_code"])
def test_mappings_in_the_place_of_expressions(program, tmp_path, key):
    def edit(node: dict[str, Any]) -> None:
        if key in node:
            node[key] = {"target": "_operator.add", "metadata": {"stack_trace": "exit()"}}

    with pytest.raises(ArtifactError, match="no arithmetic"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


@pytest.mark.parametrize("name", ["overloads", "op", "_overload_names", "decompose", "no_such_overload"])
def test_only_overloads_of_operators(name):
    """Others are methods of Python's objects for operators, which torch would call as well."""
    assert operators.is_known("torch.ops.aten.linear.default", False)
    assert not operators.is_known(f"torch.ops.aten.linear.{name}", False)
    assert not operators.is_known(f"torch.ops.sam2fast.linear_gelu.{name}", True)


def test_no_overload_writes_to_a_tensor_that_it_is_given():
    """But for the few that are meant to, and these to their first argument."""
    known = 0
    for name in sorted(operators.ATEN):
        for overload in getattr(torch.ops.aten, name).overloads() if hasattr(torch.ops.aten, name) else ():
            schema = getattr(getattr(torch.ops.aten, name), overload)._schema
            written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
            if operators.is_known(f"torch.ops.aten.{name}.{overload}", False):
                known += 1
                assert not any(a.is_out for a in schema.arguments) and not any(written[1:]), (name, overload)
                assert not any(written) or name in operators.IN_PLACE, (name, overload)
            else:
                unchecked = any(a.name in operators.UNCHECKED for a in schema.arguments)
                scripts = not torch._C._dispatch_has_kernel(f"aten::{name}.{overload}".removesuffix(".default"))
                assert any(written) or unchecked or scripts, (name, overload)
    assert known > 200
    for target in ("topk.values", "sort.values", "sort.values_stable", "max.dim_max", "min.dim_min", "div.out_mode"):
        assert not operators.is_known(f"torch.ops.aten.{target}", False), target


def test_a_file_that_is_swapped_after_the_check(program, tmp_path, monkeypatch):
    """What is loaded is what was looked at, whoever can write beside it."""
    swapped = tmp_path / "rows.pt2"
    swapped.write_bytes(program.read_bytes())
    canary = tmp_path / "canary"
    text = f"__import__('os').system('touch {canary}') + 6"
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_texts(expression=text))
    load = torch.export.load

    def swap_first(file: Any) -> Any:
        hostile.replace(swapped)
        return load(file)

    monkeypatch.setattr(torch.export, "load", swap_first)
    assert load_program(swapped).module()(torch.ones(8, 4)).shape == (8, 4)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        load(swapped)
    assert canary.exists()  # otherwise the above shows nothing
