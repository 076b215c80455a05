"""A custom launch table in a file named by SAM2FAST_LAUNCH_TABLE."""

import json
import re

import pytest
import torch

from sam2fast.kernels import _launch
from sam2fast.kernels._launch import TABLE_VARIABLE, LaunchConfig

ROW = {"arch": "*", "dtype": "*", "shape": "*", "meta": {"BLOCK": 64}, "options": {"num_warps": 2}}


@pytest.fixture
def table_of(monkeypatch, tmp_path):
    """The launch table with a file of this text, or with none."""

    def read(text):
        path = tmp_path / "table.json"
        if text is not None:
            path.write_text(text)
        monkeypatch.setenv(TABLE_VARIABLE, str(path))
        monkeypatch.setattr(_launch, "launch_table", _launch.launch_table.__wrapped__)
        return _launch.launch_table()

    return read


def test_it_replaces_the_packaged_one(table_of):
    table = table_of(json.dumps({"op": [ROW]}))
    assert table == {"op": [LaunchConfig(*ROW.values())]}
    assert _launch.launch_config("op", torch.zeros(1)).meta == {"BLOCK": 64}
    with pytest.raises(LookupError, match=r"table\.json has no launch configuration of layer_norm"):
        _launch.launch_config("layer_norm", torch.zeros(1))


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv(TABLE_VARIABLE, "")
    assert "layer_norm" in _launch.launch_table.__wrapped__()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "expected an object with a list of rows per op, got list"),
        ('{"op": {}}', "expected a list of rows of op, got dict"),
        ('{"op": [{"arch": "*"}]}', "expected rows with arch, dtype, shape, meta, options, and one of op is"),
        (json.dumps({"op": [{**ROW, "more": 1}]}), "expected rows with"),
        (json.dumps({"op": [{**ROW, "meta": {"BLOCK": "64"}}]}), "whole numbers in meta and options"),
        (json.dumps({"op": [{**ROW, "options": 4}]}), "whole numbers in meta and options"),
        (json.dumps({"op": [{**ROW, "arch": None}]}), "expected names"),
    ],
)
def test_an_invalid_table_is_an_error(table_of, text, complaint):
    said = f"{TABLE_VARIABLE} is '.*', which is no launch table: .*{re.escape(complaint)}"
    with pytest.raises(ValueError, match=said):
        table_of(text)
