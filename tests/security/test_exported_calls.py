"""Exported programs whose operators are harmless, and are called with what torch's kernels do not check."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rewritten_programs import rewritten, save_rows, with_graph
from torch import nn

from sam2fast.exported import ArtifactError, check_program, load_program, operators, save_program
from sam2fast.exported.loading import _Program

ROWS = 64


class Attention(nn.Module):
    """Of zeros as keys, among other rows, and ones as values but for the first eight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 1, ROWS, 16))
        self.register_buffer("values", torch.ones(1, 1, ROWS, 16))
        self.keys[:, :, 8:] = 100
        self.values[:, :, :8] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, self.keys[:, :, : ROWS - 1], self.values)


class InPart(Attention):
    """In a graph of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x) + 0


def saved(module: nn.Module, path: Path, *inputs: torch.Tensor, **options: Any) -> Path:
    with torch.no_grad():
        save_program(torch.export.export(module.eval(), inputs, strict=False, **options), path)
    return path


def with_argument(target: str, name: str, value: dict[str, Any]):
    """Something else as an argument of all calls of an operator."""

    def edit(node: dict[str, Any]) -> None:
        if str(node.get("target", "")).startswith(f"torch.ops.aten.{target}"):
            for given in node["inputs"]:
                if given["name"] == name:
                    given["arg"] = value

    return with_graph(edit)


def ends_by(script: str, *arguments: object) -> int:
    """How a process of torch alone ends, which gets five seconds."""
    head = "import sys, signal, torch; torch.set_num_threads(1); signal.alarm(5)\n"
    return subprocess.run([sys.executable, "-c", head + script, *map(str, arguments)], capture_output=True).returncode


def fewer_keys(module: nn.Module, folder: Path) -> Path:
    """With eight keys for 64 values, whatever was exported; the graph's own claims about sizes stay."""
    keys = ROWS - 1
    module.values = module.values[:, :, :keys].clone()
    program = saved(module, folder / "attention.pt2", torch.ones(1, 1, 1, 16))
    return rewritten(program, folder / "hostile.pt2", with_argument("slice", "end", {"as_int": 8}))


@pytest.mark.parametrize("kind", [Attention, InPart])
def test_fewer_keys_than_values(tmp_path, kind):
    """torch reads what lies behind the keys: 1 says that it did, since without these there are zeros."""
    hostile = fewer_keys(kind(), tmp_path)
    x = torch.ones(1, 1, 1, 16)
    with pytest.raises(RuntimeError, match="multiply up"):
        load_program(hostile).module()(x)
    with pytest.raises(ArtifactError, match="cannot be run"):
        _Program(hostile, torch.device("cpu"), load_program(hostile).module())(x)
    assert torch.export.load(hostile).module()(x).max() > 0.99  # otherwise the above shows nothing


def test_the_comparison_stays_when_a_program_is_saved_again(tmp_path):
    hostile = fewer_keys(Attention(), tmp_path)
    save_program(load_program(hostile), tmp_path / "again.pt2")
    for load in (load_program, torch.export.load):
        with pytest.raises(RuntimeError, match="multiply up"):
            load(tmp_path / "again.pt2").module()(torch.ones(1, 1, 1, 16))


@pytest.mark.parametrize("kinds", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 2)])
def test_keys_and_values_by_name(tmp_path, kinds):
    """A file says itself which arguments are named."""
    places = dict(zip(("query", "key", "value"), kinds, strict=True))

    def edit(node: dict[str, Any]) -> None:
        if "scaled_dot_product" in str(node.get("target", "")):
            for given in node["inputs"]:
                given["kind"] = places[given["name"]]

    hostile = rewritten(fewer_keys(Attention(), tmp_path), tmp_path / "named.pt2", with_graph(edit))
    with pytest.raises(RuntimeError, match="multiply up"):
        load_program(hostile).module()(torch.ones(1, 1, 1, 16))


class NoHeads(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)


def test_heads_that_share_keys(tmp_path):
    """torch's kernel divides by the number of the keys' heads."""
    program = saved(NoHeads(), tmp_path / "heads.pt2", torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16))
    with pytest.raises(ArtifactError, match="'True' as enable_gqa"):
        load_program(program)
    call = "torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)"
    none = "(torch.rand(2, heads, 600, 64).half() for heads in (1, 0, 1))"
    assert ends_by(f"q, k, v = {none}\n{call}") == -signal.SIGFPE  # otherwise the above shows nothing


def test_honest_attention_of_any_length(tmp_path):
    class Any_(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(q, k, v.transpose(-1, -2))

    rows = {2: torch.export.Dim("rows", min=2, max=64)}
    inputs = torch.ones(1, 2, 3, 16), torch.ones(1, 2, 5, 16), torch.ones(1, 2, 16, 5)
    shapes = (None, rows, {3: rows[2]})
    loaded = load_program(saved(Any_(), tmp_path / "x.pt2", *inputs, dynamic_shapes=shapes)).module()
    for count in (2, 7, 64):
        q, k, v = torch.randn(1, 2, 3, 16), torch.randn(1, 2, count, 16), torch.randn(1, 2, 16, count)
        assert torch.equal(loaded(q, k, v), Any_()(q, k, v))


class Wider(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.float64) + torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize("target", ["to.dtype", "zeros"])
@pytest.mark.parametrize("value", [{"as_int": -1}, {"as_int": 2**40}, {"as_scalar_type": 16}, {"as_string": "cpu"}])
def test_dtypes_that_are_none(tmp_path, target, value):
    program = saved(Wider(), tmp_path / "wider.pt2", torch.ones(2))
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_argument(target, "dtype", value))
    with pytest.raises(ArtifactError):
        load_program(hostile)


def test_numbers_as_dtypes(tmp_path):
    program = saved(Wider(), tmp_path / "wider.pt2", torch.ones(2))
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_argument("zeros", "dtype", {"as_int": -1}))
    with pytest.raises(ArtifactError, match="aten::zeros is given '-1' as dtype"):
        load_program(hostile)
    assert ends_by("torch.export.load(sys.argv[1]).module()(torch.ones(2))", hostile) < 0


LEAST = f"torch.full((64,), {-(2**63)})"
TRAPS = {
    "div.Tensor_mode": f"{LEAST}, torch.full((64,), -1), rounding_mode='trunc'",
    "div.Scalar_mode": f"{LEAST}, -1, rounding_mode='trunc'",
    "remainder.int": "1, 0",
}


@pytest.mark.parametrize(("target", "arguments"), TRAPS.items(), ids=TRAPS)
def test_operators_that_end_the_process(target, arguments):
    assert not operators.is_known(f"torch.ops.aten.{target}", True)
    assert ends_by(f"torch.ops.aten.{target}({arguments})") == -signal.SIGFPE  # otherwise the above shows nothing


@pytest.mark.parametrize(
    "target",
    [
        *(
            "div_.Tensor_mode",
            "upsample_bicubic2d.default",
            "upsample_bilinear2d.default",
            "upsample_nearest2d.default",
            "remainder.default",
        ),
        *("pow.int_to_int", "to.prim_dtype", "select.t", "add.str", "index.list_Tensor", "sub.default", "floor.int"),
    ],
)
def test_others_of_their_kind(target):
    assert not operators.is_known(f"torch.ops.aten.{target}", True)


def test_operators_of_our_programs():
    for target in ("div.Tensor", "upsample_bicubic2d.vec", "remainder.Scalar", "sym_size.int", "promote_types.default"):
        assert operators.is_known(f"torch.ops.aten.{target}", False)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return save_rows(tmp_path_factory.mktemp("program") / "rows.pt2")


def with_limits(name: str):
    def edit(node: dict[str, Any]) -> None:
        if "range_constraints" in node:
            node["range_constraints"][name] = {"min_val": 0, "max_val": 5}

    return with_graph(edit)


def test_sizes_that_torch_counts_up_to(program, tmp_path):
    hostile = rewritten(program, tmp_path / "hostile.pt2", with_limits("u99999999999"))
    with pytest.raises(ArtifactError, match="has limits of 'u99999999999', which is no size"):
        load_program(hostile)
    assert ends_by("torch.export.load(sys.argv[1])", hostile) == -signal.SIGALRM
    load_program(rewritten(program, tmp_path / "sound.pt2", with_limits("u12")))


@pytest.mark.parametrize("name", ["u00000009999", "zuf123456", "rows", "", "u1_0", "u٣", "s0.x", "-u1"])
def test_limits_of_what_is_no_size(program, tmp_path, name):
    with pytest.raises(ArtifactError, match="which is no size"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_limits(name)))


@pytest.mark.parametrize("key", ["KEY", "NOTE", ""])
def test_keys_are_not_taken_for_kinds(program, tmp_path, key):
    def edit(node: dict[str, Any]) -> None:
        if "target" in node:
            node[key] = "user_input"

    with pytest.raises(ArtifactError, match="has the text 'user_input' as"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", with_graph(edit)))


UNUSUAL: dict[str, Callable[[], torch.Tensor]] = {
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(6, 4), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_tensors_that_are_no_plain_numbers(program, tmp_path, make):
    file = io.BytesIO()
    torch.save(((make(),), {}), file)

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        return [(name, file.getvalue() if name.endswith("sample_inputs/model.pt") else content)]

    with pytest.raises(ArtifactError, match="something else than"):
        check_program(rewritten(program, tmp_path / "hostile.pt2", change))


def test_weights_of_other_dtypes(program, tmp_path):
    """By their number in the list of weights."""

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            for entry in config["config"].values():
                entry["tensor_meta"]["dtype"] = 16
            content = json.dumps(config).encode()
        return [(name, content)]

    with pytest.raises(ArtifactError):
        load_program(rewritten(program, tmp_path / "hostile.pt2", change))
