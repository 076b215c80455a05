"""Exported programs that call what reaches beyond their tensors, or put Python into names: torch alone would do it."""

import contextlib
import copy
import json
import zipfile
from pathlib import Path

import pytest
import torch
from rewritten_programs import GRAPH, rewritten, save_rows, with_graph, with_target, with_text

from sam2fast.exported import ArtifactError, check_program, load_program

SECRET = "# it was me\n" * 4


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return save_rows(tmp_path_factory.mktemp("program") / "rows.pt2")


def writing(victim: Path):
    """Two nodes before the others: a file as a tensor, and a number into all of it."""

    def argument(name, kind, value, position=1):
        return {"name": name, "arg": {kind: value}, "kind": position}

    def edit(graph):
        if "nodes" not in graph:
            return
        about = next(iter(graph["tensor_values"].values()))
        for name in ("mapped", "filled"):
            graph["tensor_values"][name] = copy.deepcopy(about) | {"dtype": 1, "requires_grad": False}
        opened = [argument("filename", "as_string", str(victim)), argument("shared", "as_bool", True)]
        opened += [argument("size", "as_int", len(SECRET)), argument("dtype", "as_scalar_type", 1, 2)]
        filled = [argument("self", "as_tensor", {"name": "mapped"}), argument("value", "as_int", 65)]
        calls = {"from_file.default": (opened, "mapped"), "fill_.Scalar": (filled, "filled")}
        graph["nodes"][:0] = [
            copy.deepcopy(graph["nodes"][0])
            | {"target": f"torch.ops.aten.{target}", "inputs": inputs, "outputs": [{"as_tensor": {"name": name}}]}
            | ({"name": name} if "name" in graph["nodes"][0] else {})  # which older versions of torch do not write
            for target, (inputs, name) in calls.items()
        ]

    return with_graph(edit)


def test_files_are_not_written(program, tmp_path):
    victim = tmp_path / "profile"
    victim.write_text(SECRET)
    hostile = rewritten(program, tmp_path / "hostile.pt2", writing(victim))
    with pytest.raises(ArtifactError, match=r"calls 'torch.ops.aten.from_file.default', which is no operator"):
        load_program(hostile)
    assert victim.read_text() == SECRET
    torch.export.load(hostile).module()(torch.ones(6, 4))
    assert victim.read_text() == "A" * len(SECRET)  # otherwise the above shows nothing


@pytest.mark.parametrize(
    "target",
    [
        *("aten.from_file.default", "aten.from_file", "aten.from_file.out", "aten.linear", "aten.linear.out"),
        *("aten.set_.source_Storage", "aten.resize_.default", "aten.as_strided.default", "aten.empty.memory_format"),
        *(
            "aten.new_empty.default",
            "aten.add.Tensor_out",
            "aten._nested_view_from_buffer.default",
            "aten.item.default",
        ),
        *(
            "aten.linear.__class__",
            "aten.rand.default",
            "prims.convert_element_type.default",
            "profiler._record_function",
        ),
        *("higher_order.triton_kernel_wrapper_functional", "higher_order.cond", "higher_order.call_torchbind"),
        *(
            "higher_order.wrap_with_autocast.default",
            "inductor.resize_storage_bytes_.default",
            "other.anything.default",
        ),
    ],
)
def test_operators_that_our_programs_do_not_have(program, tmp_path, target):
    with pytest.raises(ArtifactError, match="which is no operator that our programs consist of"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_target(f"torch.ops.{target}")))


@pytest.mark.parametrize(
    "target", ["_operator.pow", "_operator.lshift", "_operator.setitem", "math.factorial", "math.comb", "torch._check"]
)
def test_arithmetic_without_end(program, tmp_path, target):
    with pytest.raises(ArtifactError, match="which is no operator"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_target(target)))


def test_own_kernels_have_to_be_allowed(program, tmp_path):
    kept = rewritten(program, tmp_path / "kept.pt2", with_target("torch.ops.sam2fast.linear_gelu.default"))
    with pytest.raises(ArtifactError, match="allow_kernels=True allows it"):
        check_program(kept)
    check_program(kept, allow_kernels=True)
    for target in ("sam2fast.linear_gelu", "sam2fast.__dir__.default", "aten.from_file.default"):
        hostile = rewritten(program, tmp_path / "x.pt2", with_target(f"torch.ops.{target}"))
        with pytest.raises(ArtifactError, match="consist of, and was not loaded"):
            check_program(hostile, allow_kernels=True)


# What has a name in the program, and what is put behind it or in its place.
PLACES = {
    "an argument": ("x", "x={}"),
    "its type": ("x", "x: {}"),
    "a tensor": ("p_linear_weight", "p_linear_weight, y={}"),
    "a weight": ("linear.weight", 'linear."+{}+"'),
    "a buffer": ("offset", 'offset"), {}, ("'),
    "a node": ("gelu", "gelu\n    {}"),
    "a named argument": ("other", "other={}, x"),
    "a device": ("cpu", "cpu\n{}"),
    "something private": ("offset", "__class__.offset"),
    "something private of a part": ("linear.weight", "linear.__class__.weight"),
}


@pytest.mark.parametrize(("old", "new"), PLACES.values(), ids=PLACES.keys())
def test_python_in_names(program, tmp_path, old, new):
    """torch makes Python code of a graph and runs it, with the names as they are."""
    canary = tmp_path / "canary"
    code = f"__import__('os').system('touch {canary}')"
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_text(old, new.format(code)))
    with pytest.raises(ArtifactError, match="has the name .*, which could run code"):
        load_program(hostile)
    assert not canary.exists()
    if new == "x={}":
        with contextlib.suppress(SyntaxError):
            torch.export.load(hostile).module()
        assert canary.exists()  # otherwise the above shows nothing


@pytest.mark.parametrize("text", ["/etc/passwd", "tanh ", "NONE", "cpu:0", ""])
def test_texts_for_operators(program, tmp_path, text):
    def edit(node):
        if node.get("name") == "input":
            node["arg"] = {"as_string": text}

    with pytest.raises(ArtifactError, match="gives an operator the text"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


@pytest.mark.parametrize("kind", ["as_operator", "as_custom_obj", "as_string_to_argument", "as_complex"])
def test_arguments_of_other_kinds(program, tmp_path, kind):
    def edit(node):
        if node.get("name") == "input":
            node["arg"] = {kind: "x"}

    with pytest.raises(ArtifactError, match=f"has an argument of the kind '{kind}'"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


def test_packed_entries(program, tmp_path):
    """What is packed may unpack to more than there is memory."""
    packed = rewritten(program, tmp_path / "x.pt2", lambda name, content: [(name, content)], zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="holds packed entries"):
        check_program(packed)


def test_entries_that_share_their_bytes(program, tmp_path):
    """A list of entries may name the same bytes many times."""
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("m/data/weights/weight_0", bytes(9000))
        for number in range(1, 3):
            entry = copy.copy(archive.infolist()[0])
            entry.filename = f"m/data/weights/weight_{number}"
            archive.filelist.append(entry)
    with pytest.raises(ArtifactError, match="holds packed entries"):
        check_program(tmp_path / "x.pt2")


def test_json_is_read_as_torch_reads_it(program, tmp_path):
    """Of JSON in UTF-16 Python would find another text than torch."""

    def change(name, content):
        text = json.dumps(json.loads(content)).encode("utf-16") if name.endswith(GRAPH) else content
        return [(name, text)]

    with pytest.raises(ArtifactError, match="is damaged, or no exported program"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", change))
