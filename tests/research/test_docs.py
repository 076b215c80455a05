"""The snippets of docs/research.md, and the examples that it names."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from small_film import SIZE

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.kernels import _own_ops

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "bench" / "research").glob("*.py") if path.stem != "research_run")


def test_snippets(capsys):
    document = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/research.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "torch.Size([4, 32, 64, 64])" in printed and re.search(r"conditioning 0 3 \d", printed)
    assert len(names["maps"]) == 1 and not _own_ops.registered
    assert len(snippets) == document.count("```python") == 7


def test_every_example_is_named():
    document = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    assert EXAMPLES and all(f"`{name}.py`" in document for name in EXAMPLES)


@pytest.fixture
def small(monkeypatch):
    """Examples see nano and clips at a quarter of the pixels."""
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "research"))
    import research_run

    def nano_at_small_size(device):
        overrides = [f"++model.image_size={SIZE}"]
        return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device=device, hydra_overrides_extra=overrides)

    clips = research_run.factory_clips
    monkeypatch.setattr(research_run, "nano", nano_at_small_size)
    monkeypatch.setattr(research_run, "factory_clips", lambda args, **kwargs: clips(args, SIZE, max_objects=1))


FRAMES = {"stage_features": 1, "attention_to_age": 17, "own_attention": 5}
ROWS = {
    "attention_to_age": 12,
    "mask_choice": 5,
    "memory_ablation": 13,
    "own_attention": 3,
    "selection": 4,
    "stage_features": 8,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, small, monkeypatch, tmp_path, capsys):
    command = [name, "--clips", "8" if name == "stage_features" else "1", "--frames", str(FRAMES.get(name, 3))]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path)])
    runpy.run_path(str(ROOT / "bench" / "research" / f"{name}.py"), run_name="__main__")
    (file,) = tmp_path.glob(f"research-{name.replace('_', '-')}-cpu-*.json")
    report = json.loads(file.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(report["rows"]) == ROWS[name] and len(printed) >= 1 + ROWS[name]
    assert report["machine"]["torch"] and report["settings"]["clips"] == int(command[2])
    values = [v for row in report["rows"] for v in row.values() if isinstance(v, float)]
    assert values and np.isfinite(values).all()
    if name == "attention_to_age":
        for column in ("tokens", "layer 0", "layer 1", "layer 2"):
            assert sum(row[column] for row in report["rows"]) == pytest.approx(100, abs=1e-3)
