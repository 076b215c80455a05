"""Generates tracker.py from the modules of ``runtime``. tracker.py needs only numpy, Pillow and onnxruntime."""

import ast
from pathlib import Path

TRACKER = "tracker.py"
_PACKAGE = Path(__file__).parents[2]
_RUNTIME = Path(__file__).parent / "runtime"
# Modules of tracker.py. A module may import only modules that precede it in this list.
SOURCES = (
    _PACKAGE / "utils" / "numbers.py",
    _PACKAGE / "io" / "file_records.py",
    _PACKAGE / "modeling" / "memory_selection.py",
    _PACKAGE / "tracking" / "object_results.py",
    _PACKAGE / "tracking" / "together_rules.py",
    *(_RUNTIME / f"{name}.py" for name in ("manifest", "arrays", "together", "prompts", "frames", "graphs", "images")),
    *(_RUNTIME / f"{name}.py" for name in ("objects", "videos")),
)
_HEADER = '''"""SAM 2's image predictor and video tracker for the ONNX graphs in this file's folder.

This file needs numpy, Pillow and onnxruntime. ``sam2fast export --format onnx`` generated it from sam2fast's modules.

    from tracker import OnnxImagePredictor, OnnxVideoPredictor, load_model

    predictor = OnnxVideoPredictor(load_model("FOLDER"))
    state = predictor.init_state("frames")  # a folder of JPEG or PNG files, or a list of images
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[210, 350]], labels=[1])
    for frame, ids, logits in predictor.propagate_in_video(state):
        masks = logits > 0  # (objects, 1, H, W)
"""
'''


def tracker_source() -> str:
    """Returns the source code of tracker.py."""
    imports: set[str] = set()
    bodies = []
    for path in SOURCES:
        module_imports, body = _without_imports(path.read_text(encoding="utf-8"))
        imports |= module_imports
        bodies.append(body)
    listed = sorted(imports, key=lambda line: (line.startswith("from"), line))
    return "\n\n".join([_HEADER + "\n" + "\n".join(listed), *bodies]) + "\n"


def _without_imports(source: str) -> tuple[set[str], str]:
    """Returns a module's imports from outside sam2fast, and the module's text without imports and docstring."""
    lines, imports = source.splitlines(), set()
    for i, node in enumerate(ast.parse(source).body):
        is_docstring = i == 0 and isinstance(node, ast.Expr)
        if not is_docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if not is_docstring and not str(getattr(node, "module", "")).startswith("sam2fast."):
            imports.add(ast.unparse(node))
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return imports, "\n".join(lines).strip()
