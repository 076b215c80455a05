"""What is counted of Python calls, on a small model."""

import ast
import json

import torch.nn.functional as F
from suite import calls

from sam2fast.engine.plans import is_relu
from sam2fast.modeling.layers import get_activation_fn


def test_what_counts():
    with calls.Calls() as found:
        list(map(is_relu, (F.relu, get_activation_fn("gelu"))))
    assert found.figures() == {"calls": 3, "questions": 2, "files": 2, "asking": {"others": 2}}


def test_comprehensions_do_not_count():
    """Of code in the package; lambdas do."""
    names = {}
    code = "def numbers(): return [x for x in (1, 2)] + list(map(lambda x: x, {y for y in (3, 4)}))"
    exec(compile(code, f"{calls.PACKAGE}/new.py", "exec"), names)
    with calls.Calls() as found:
        names["numbers"]()
    assert found.figures() == {"calls": 3, "questions": 0, "files": 1, "asking": {}}


def test_rows(monkeypatch, tmp_path, capsys):
    measured = calls.measured
    monkeypatch.setattr(calls, "measured", lambda name: measured(name, ["++model.image_size=64"]))
    calls.main(["--model", "nano", "--out", f"{tmp_path}"])
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    (row,) = report["rows"]
    assert file.name.startswith("python-calls-") and report["machine"]["commit"] and row["model"] == "nano"
    printed = capsys.readouterr().out
    for kind in calls.KINDS:
        found = row[kind]
        assert found["calls"] > 5 * found["files"] > 0 and found["calls"] > found["questions"]
        assert sum(found["asking"].values()) == found["questions"]
        assert f"| {found['calls']} | {found['questions']} | {found['files']} |" in printed
    assert not row["recorded"]["asking"].keys() & {"modeling"} and row["recorded"]["calls"] < 4 * row["frame"]["calls"]
    assert 1000 < report["lines"]["modeling"] < 10_000 and report["lines"]["engine"] > 500
    assert "engine/__init__.py" in report["asking_files"] and "config.py" not in report["asking_files"]
    assert not any(name.startswith("kernels") for name in report["asking_files"])


def test_questions_are_functions_of_the_package():
    """A renamed one would no longer count."""
    paths = [path for folder in ("engine", "kernels") for path in (calls.PACKAGE / folder).rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    assert calls.QUESTIONS - functions == set()
