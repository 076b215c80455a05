"""Static checks of the sources that go beyond ruff's security rules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("sam2fast", "kernels", "configs") for path in (ROOT / folder).rglob("*.py"))
# The only places of these calls, with the reason why they are safe.
PLACES = {
    "torch.load": {
        "checkpoints/weight_files.py": "weights_only=True",
        "training/checkpointing.py": "weights_only=True",
    },
    "ctypes.CDLL": {},
    "np.load": {"training/feature_cache.py": "allow_pickle=False"},
    "torch.export.load": {"deploy/exported/programs.py": "the user's own artefacts only"},
    "hydra instantiate": {"config.py": "of a node that check_targets has gone through"},
    "tarfile.open": {"demo/in_browser/runtime.py": "reads a few files by name, of an archive whose digest was checked"},
    "Image.open": {
        "io/images.py": "refuses formats that run other programs",
        "training/data/synthetic/compositing.py": "its own JPEG",
        "deploy/onnx/runtime/frames.py": "formats by name, none of which runs other programs",
    },
    "av.open": {
        "video_io/containers.py": "follows no lists of other files",
        "demo/clip.py": "for writing",
        "demo/server/video_exports.py": "for writing",
        "video_io/sound.py": "a video that was written here, and for writing",
        "video_io/video_writer.py": "for writing",
    },
}
# Calls by their dotted name, with the name they are listed under.
CALLS = {
    **{name: name for name in PLACES if " " not in name},
    "numpy.load": "np.load",
    "instantiate": "hydra instantiate",
    "hydra.utils.instantiate": "hydra instantiate",
}
# Forbidden under any name.
NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.Unpickler"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load"),
    *("yaml.full_load", "marshal.loads", "shelve.open", "tempfile.mktemp", "shutil.unpack_archive"),
    *("runpy.run_path", "numpy.fromregex", "joblib.load", "dill.load", "dill.loads"),
}

NAMES = "|".join(sorted(name.replace(".", r"\.") for name in {*NEVER, *CALLS}))
TELLING = re.compile(rf"(?<![\w.])({NAMES})\(|\b(extract|extractall|shell|weights_only|allow_pickle)\b")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The dotted names of all calls in a file."""
    text = path.read_text(encoding="utf-8")
    # Fast path for files without any of the names.
    for node in ast.walk(ast.parse(text)) if TELLING.search(text) else ():
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def dotted(function: ast.expr) -> str:
    """``a.b.c``; a dot and the last name if it follows an expression."""
    if isinstance(function, ast.Attribute):
        return f"{dotted(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


@pytest.fixture(scope="module")
def called() -> dict[str, list[tuple[str, ast.Call]]]:
    found = {path.relative_to(ROOT).as_posix().removeprefix("sam2fast/"): list(calls(path)) for path in SOURCES}
    assert len(found) > 300
    return found


@pytest.mark.parametrize("kind", PLACES)
def test_files_are_opened_in_known_places(called, kind):
    """To add a place, review it and state why it is safe."""
    places = {file for file, found in called.items() for name, _ in found if CALLS.get(name) == kind}
    assert places == {*PLACES[kind]}


def test_no_shell_and_nothing_is_evaluated_or_unpickled_or_extracted(called):
    for file, found in called.items():
        for name, call in found:
            assert name not in NEVER, file
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert not name.endswith((".extract", ".extractall")) and "shell" not in given, file
            for kind, keyword, value in (("torch.load", "weights_only", "True"), ("np.load", "allow_pickle", "False")):
                assert given.get(keyword, None if CALLS.get(name) == kind else value) == value, file


def test_security_rules_are_on():
    """`make lint` applies them to the package, without exceptions by folder."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    chosen = text[text.index("[tool.ruff.lint]") :]
    assert '"S"]' in chosen.split("\n")[1]
    exceptions = chosen.partition("per-file-ignores]")[2].partition("\n[")[0]
    assert {line.split('"')[1] for line in exceptions.splitlines() if line.startswith('"')} == {"tests/**", "bench/**"}
