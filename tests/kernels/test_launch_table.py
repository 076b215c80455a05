"""Launch configurations of the package, and in a file named by SAM2FAST_LAUNCH_TABLE."""

import json
import re

import pytest
import torch

from sam2fast.kernels import _launch
from sam2fast.kernels._launch import TABLE_VARIABLE, LaunchConfig, Row

ROW = {"arch": "*", "dtype": "*", "shape": "*", "meta": {"BLOCK": 64}, "options": {"num_warps": 2}}


@pytest.fixture
def table_of(monkeypatch, tmp_path):
    """The rows of a file with this text, or of none."""

    def read(text):
        path = tmp_path / "table.json"
        if text is not None:
            path.write_text(text)
        monkeypatch.setenv(TABLE_VARIABLE, str(path))
        monkeypatch.setattr(_launch, "custom_rows", _launch.custom_rows.__wrapped__)
        return _launch.custom_rows()

    return read


def packaged(*names):
    return LaunchConfig({"BLOCK": 1}, {})


def test_it_comes_before_the_packaged_one(table_of):
    """An op without a row has the package's configuration."""
    assert table_of(json.dumps({"op": [ROW]})) == {"op": [Row(*ROW.values())]}
    assert _launch.launch_config("op", packaged, torch.zeros(1)).meta == {"BLOCK": 64}
    assert _launch.launch_config("other", packaged, torch.zeros(1)).meta == {"BLOCK": 1}


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv(TABLE_VARIABLE, "")
    assert _launch.custom_rows.__wrapped__() == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "expected an object with a list of rows per op, got list"),
        ('{"op": {}}', "expected a list of rows of op, got dict"),
        ('{"op": [{"arch": "*"}]}', "expected rows with arch, dtype, shape, meta, options, but a row of op is"),
        (json.dumps({"op": [{**ROW, "more": 1}]}), "expected rows with"),
        (json.dumps({"op": [{**ROW, "meta": {"BLOCK": "64"}}]}), "integers in meta and options"),
        (json.dumps({"op": [{**ROW, "options": 4}]}), "integers in meta and options"),
        (json.dumps({"op": [{**ROW, "arch": None}]}), "expected names"),
    ],
)
def test_an_invalid_table_is_an_error(table_of, text, complaint):
    said = f"{TABLE_VARIABLE} is '.*', which is not a launch table: .*{re.escape(complaint)}"
    with pytest.raises(ValueError, match=said):
        table_of(text)


def test_every_op_is_launched_on_every_gpu():
    """Also on those that are not known yet."""
    pytest.importorskip("triton")
    import recorded

    for op, record in recorded.RECORDS.items():
        calls = list(record.launched())
        for target in ("sm_90", "sm_130", "gfx1100"):
            for launch in recorded.launches_of(op, calls, target):
                assert launch.options.get("num_warps", 4) in (1, 2, 4, 8, 16), (target, launch)


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121"])
def test_attention_prefetches_keys_on_nvidia_gpus(arch):
    """Pipelines of two stages prefetch nothing. `make sass` finds this in the machine code."""
    attention = pytest.importorskip("sam2fast.kernels.memory_attention.launch", reason="needs triton").config
    tokens = pytest.importorskip("sam2fast.kernels.token_attention_triton").config
    configs = [attention(arch, "bfloat16", shape) for shape in ("256x64", "128x64", "256x256")]
    assert all(one.options["num_stages"] == 3 for one in [*configs, tokens(arch, "bfloat16", "many")])
