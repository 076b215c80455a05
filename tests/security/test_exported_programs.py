"""Exported programs whose files hold code: torch alone would run it, and ours is not asked to."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from hostile import touches
from rewritten_programs import rewritten, save_rows, with_graph, with_target

from sam2fast.exported import ArtifactError, check_program, load_program


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return save_rows(tmp_path_factory.mktemp("program") / "rows.pt2")


def with_pickle(canary: Path):
    def change(name, content):
        if not name.endswith(".pt"):
            return [(name, content)]
        file = io.BytesIO()
        torch.save((touches(canary),), file)
        return [(name, file.getvalue())]

    return change


def with_expression(canary: Path):
    text = f"__import__('os').system('touch {canary}') + 1"

    def edit(node):
        if "expr_str" in node:
            node["expr_str"] = text

    return with_graph(edit)


def test_an_honest_program_is_loaded(program):
    loaded = load_program(program).module()
    assert loaded(torch.ones(8, 4)).shape == (8, 4)


def test_torch_alone_would_run_it(program, tmp_path):
    """Otherwise the tests below would show nothing."""
    for number, change in enumerate((with_pickle, with_expression)):
        canary = tmp_path / f"canary{number}"
        hostile = rewritten(program, tmp_path / f"hostile{number}.pt2", change(canary))
        with contextlib.suppress(Exception):
            torch.export.load(hostile)
        assert canary.exists(), change.__name__


def test_pickles_are_refused(program, tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(ArtifactError, match="something else than tensors in .*, which could run code"):
        load_program(rewritten(program, tmp_path / "hostile.pt2", with_pickle(canary)))
    assert not canary.exists()


def test_expressions_are_refused(program, tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(ArtifactError, match="evaluates .__import__.*no arithmetic"):
        load_program(rewritten(program, tmp_path / "hostile.pt2", with_expression(canary)))
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        *("exec(chr(112))", "s0.__class__", "(lambda: 1)()", "[s0 for s0 in (1,)]", "open", "f(s0)", "s0 if s0 else 1"),
        *("Max('exit()', 1)", "Symbol(f'{exit()}')", "Integer(__import__('os'))", "1;2", "(s0 := 1)", "b'x'.size()"),
        # Numbers without end.
        *("9**9**9", "Pow(9, Pow(9, 9))", "PowByNatural(9, 9)", "1 << 99", "9" * 30, "-" + "9" * 30, "1+" * 6000 + "1"),
    ],
)
def test_no_other_way_to_python(program, tmp_path, text):
    def edit(node):
        for key in ("expr_str", "guards_code"):
            if key in node:
                node[key] = text if key == "expr_str" else [text]

    with pytest.raises(ArtifactError, match="no arithmetic"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


@pytest.mark.parametrize(
    "target",
    [
        *("torch.hub.load", "torch.serialization.os.system", "torch.ops.load_library", "eval", ""),
        *("torch.ops.load_library.__call__", "_operator.methodcaller", "_operator.call", "#x", "math.floor.__self__"),
    ],
)
def test_functions_that_are_no_operators_are_refused(program, tmp_path, target):
    with pytest.raises(ArtifactError, match="which is no operator"):
        load_program(rewritten(program, tmp_path / "hostile.pt2", with_target(target)))


@pytest.mark.parametrize(
    "extra",
    [
        *("m/data/aotinductor/model/m.so", "m/data/constants/custom_obj_0", "m/extra/x.dll", "m/extra/x", "m/models/"),
        *("m/data/constants/opaque_obj_0", "m/models/other.json", "m/models/model.txt", "m/models/Model.json"),
        *("m/DATA/sample_inputs/model.pt", "serialized_state_dict.json", "serialized_constants.PT", "x.json"),
    ],
)
def test_whatever_else_is_in_the_file_is_refused(program, tmp_path, extra):
    """Native code, objects with ways of their own to be unpickled, and what is looked for whatever its case."""

    def change(name, content):
        return [(name, content), *([(extra, b"\x7fELF")] if name.endswith("model.json") else [])]

    with pytest.raises(ArtifactError, match="holds more than an exported program .*, which could be code"):
        load_program(rewritten(program, tmp_path / "hostile.pt2", change))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(program, tmp_path):
    def change(name, content):
        return [(name, content)] * (2 if name.endswith("model.json") else 1)

    with pytest.raises(ArtifactError, match="holds more than an exported program"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", change))


def with_weights(canary: Path):
    """The weights as pickles, under names that do not tell."""

    def change(name, content):
        if name.endswith("weight_0"):
            file = io.BytesIO()
            torch.save((touches(canary),), file)
            content = file.getvalue()
        if name.endswith("weights_config.json"):
            content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return [(name, content)]

    return change


def test_weights_as_pickles_are_refused(program, tmp_path):
    canary = tmp_path / "canary"
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_weights(canary))
    with pytest.raises(ArtifactError, match="holds tensors as pickles"):
        load_program(hostile)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.export.load(hostile)
    assert canary.exists()  # otherwise the above shows nothing


def with_config(key: str, value: object):
    def change(name, content):
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            for entry in config["config"].values():
                entry[key] = value
            content = json.dumps(config)
        return [(name, content)]

    return change


@pytest.mark.parametrize(("key", "value"), [("use_pickle", 1), ("path_name", "opaque_obj_0"), ("path_name", "../x")])
def test_places_of_weights(program, tmp_path, key, value):
    with pytest.raises(ArtifactError, match="could run code"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_config(key, value)))


LEAF = {"type": None, "context": None, "children_spec": []}
FACTORY = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []})
ENUM = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "x"}])


@pytest.mark.parametrize("key", ["in_spec", "out_spec"])
@pytest.mark.parametrize(
    "tree",
    [
        {"type": "collections.defaultdict", "context": FACTORY, "children_spec": []},
        {"type": "builtins.dict", "context": ENUM, "children_spec": [LEAF]},
        {"type": "builtins.tuple", "context": "null", "children_spec": [{**LEAF, "context": ENUM}]},
        {"type": "collections.namedtuple", "context": "[]", "children_spec": []},
    ],
)
def test_arguments_that_import_modules_are_refused(program, tmp_path, key, tree):
    def edit(node):
        if key in node:
            node[key] = json.dumps([1, {"type": "builtins.list", "context": "null", "children_spec": [tree]}])

    with pytest.raises(ArtifactError, match="arguments or results in .* which could import code"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


def test_torch_and_python_read_different_archives(program, tmp_path):
    """One file with two lists of entries: Python takes the one at the end, torch the one that the end points to."""

    def padded(edit):
        """JSON of one length, whatever the change."""

        def change(name, content):
            ((_, changed),) = edit(name, content)
            return [(name, json.dumps(json.loads(changed)).ljust(40_000) if name.endswith(".json") else changed)]

        return change

    honest = rewritten(program, tmp_path / "honest.pt2", padded(with_graph(lambda node: None)))
    hostile = rewritten(program, tmp_path / "hostile.pt2", padded(with_target("torch.hub.load")))
    end = 22  # bytes of the archive's last record
    both = hostile.read_bytes()[:-end] + honest.read_bytes()[:-end] + hostile.read_bytes()[-end:]
    (tmp_path / "both.pt2").write_bytes(both)
    with pytest.raises(ArtifactError, match="'torch.hub.load', which is no operator"):
        check_program(tmp_path / "both.pt2")


def test_files_of_older_torch(program, tmp_path):
    """As torch 2.6 wrote them, without a folder."""
    parts = [f"serialized_{part}.pt" for part in ("example_inputs", "state_dict", "constants")]
    places = {"model.json": ["serialized_exported_program.json"], "archive_version": ["version"], "model.pt": parts}

    def change(name, content):
        return [(new, content) for new in places.get(name.rpartition("/")[2], [])]

    check_program(rewritten(program, tmp_path / "old.pt2", change))
    damage = {"serialized_constants.pt": b"\x80\x02cos\nsystem\n."}
    with pytest.raises(ArtifactError, match="something else than tensors in serialized_constants.pt"):
        check_program(rewritten(tmp_path / "old.pt2", tmp_path / "x.pt2", lambda n, c: [(n, damage.get(n, c))]))


def test_other_files_are_no_programs(tmp_path):
    for content in (b"", b"x", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "x.pt2").write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged, or no exported program"):
            load_program(tmp_path / "x.pt2")
