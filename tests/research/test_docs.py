"""The snippets of docs/research.md, and the examples that it names."""

import json
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from small_video import SIZE

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.kernels import _custom_ops
from sam2fast.tracking.approximations import EXACT, Approximations

ROOT = Path(__file__).parents[2]
# Without hooks.
OTHERS = {
    *(
        "approximations",
        "crowd_detections",
        "crowd_failures",
        "nano_heldout",
        "onnx_costs",
        "scaling",
        "shared",
        "strategy_clips",
    ),
    *("striped_snakes", "text_prompts"),
}
EXAMPLES = sorted({path.stem for path in (ROOT / "examples").glob("*.py")} - OTHERS)


def test_snippets(capsys):
    document = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/research.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "torch.Size([4, 32, 64, 64])" in printed and re.search(r"conditioning 0 3 \d", printed)
    assert "Parts(image=True, masks=False, attention=True, memory=True)" in printed
    assert len(names["maps"]) == 1 and not _custom_ops.registered
    assert len(snippets) == document.count("```python") == 7


def test_every_example_is_named_and_run():
    document = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    assert EXAMPLES and all(f"`{name}.py`" in document for name in EXAMPLES)
    assert {name.partition(" ")[0] for name in ROWS} == {"approximations", *EXAMPLES}


@pytest.fixture
def small(monkeypatch):
    """Examples see nano and clips at a quarter of the pixels."""
    import shared

    def nano_at_small_size(device):
        overrides = [f"++model.image_size={SIZE}"]
        return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device=device, hydra_overrides_extra=overrides)

    clips = shared.synthetic_clips
    monkeypatch.setattr(shared, "nano", nano_at_small_size)
    monkeypatch.setattr(shared, "synthetic_clips", lambda args, **kwargs: clips(args, SIZE, max_objects=1))


FRAMES = {"approximations": 10, "stage_features": 1, "attention_to_age": 17, "own_attention": 5}
ROWS = {
    "approximations": 6,
    "attention_to_age": 12,
    "mask_choice": 5,
    "memory_selection --ablate": 13,
    "own_attention": 3,
    "stage_features": 8,
}


@pytest.mark.parametrize("name", ROWS)
def test_examples_run(name, small, monkeypatch, tmp_path, capsys):
    script, *options = name.split()
    out = tmp_path / "rows.json"
    clips = "8" if name == "stage_features" else "1"
    options += ["--clips", clips, "--frames", str(FRAMES.get(name, 3)), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [script, *options])
    runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    report = json.loads(out.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(report["rows"]) == ROWS[name] and len(printed) >= 1 + ROWS[name]
    assert report["settings"]["clips"] == int(clips)
    values = [v for row in report["rows"] for v in row.values() if isinstance(v, float)]
    assert values and np.isfinite(values).all()
    if name == "attention_to_age":
        for column in ("tokens", "layer 0", "layer 1", "layer 2"):
            assert sum(row[column] for row in report["rows"]) == pytest.approx(100, abs=1e-3)


def test_the_example_has_all_approximations():
    import approximations

    asked = [Approximations.of(asked) for asked in approximations.SUBJECTS.values()]
    assert asked[0] == EXACT and len(set(asked)) == len(asked)
    assert {name for one in asked for name in one.named()} == {field.name for field in fields(EXACT)}
