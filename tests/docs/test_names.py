"""Names in sentences exist: options, environment variables, variables of make, files, and imports."""

import pydoc
import re
from collections.abc import Callable, Iterator

from document_blocks import FENCE, ROOT, Block, all_blocks, all_spans, blocks_of, texts
from document_commands import options

SPANS = list(all_spans())
# ``text`` is printed output, formulas and layouts of folders: nothing to run.
LANGUAGES = {"python", "shell", "yaml", "json", "xml", "text"}
# Options of other programs.
OTHER_OPTIONS = {"--rdzv-conf", "--max-restarts", "-f", "--outDir", "-p", "--function-file"}
FOLDERS = "sam2fast|kernels|tests|bench|examples|docs|configs|notebooks"


def test_every_block_has_a_fence_with_a_language() -> None:
    assert len(list(all_blocks())) > 150
    assert [block.where for block in all_blocks() if block.language not in LANGUAGES] == []
    assert [(file, block) for file, text in texts().items() for block in indented_blocks(text)] == []


def indented_blocks(text: str) -> Iterator[str]:
    in_list = False
    for paragraph in re.split(r"\n(?: *\n)+", FENCE.sub("", text)):
        if not paragraph.startswith(" "):
            in_list = re.search(r"^(?:[-*+]|\d+[.)]|!!!) ", paragraph, re.MULTILINE) is not None
        elif paragraph.startswith(" " * (8 if in_list else 4)):
            yield paragraph


def test_python_is_python() -> None:
    """Also if it cannot be run."""
    for block in blocks_of("python"):
        compile(block.text, block.where, "exec")


def test_options() -> None:
    known = OTHER_OPTIONS.union(*options().values())
    named = [span for span in SPANS if re.match(r"(--[a-z]|-[a-z]\b)", span.text) and span.file != "bench/README.md"]
    words = [(span, word) for span in named for word in re.findall(r"(?:^|[ /])(--?[a-z][\w-]*)", span.text)]
    check(words, known.__contains__)


def test_variables() -> None:
    """Environment variables, which our code or its libraries read, and variables of make."""
    paths = [path for name in FOLDERS.split("|") for path in ROOT.glob(f"{name}/**/*.py")]
    paths += [ROOT / "Makefile", ROOT / "docker-compose.yaml"]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    known = {"KEY", *re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+|(?<=\$\()[A-Z]+(?=\))", text)}
    named = re.compile(r"(?:^| )([A-Z][A-Z0-9_]*)=", re.MULTILINE)
    check(
        [(code, name) for code in (*SPANS, *blocks_of("shell")) for name in named.findall(code.text)],
        known.__contains__,
    )
    for file, content in texts().items():
        assert set(re.findall(r"SAM2FAST_[A-Z_]+[A-Z]", content)) <= known, file


def test_files() -> None:
    named = re.compile(rf"(?:{FOLDERS})/[\w./+-]+")
    words = [(span, word) for span in SPANS for word in span.text.split() if named.fullmatch(word)]
    check(words, lambda word: (ROOT / word).exists())


def test_imports() -> None:
    found = [(span, re.match(r"(sam2fast(?:\.\w+)+)", span.text)) for span in SPANS]
    check([(span, name[1]) for span, name in found if name], pydoc.locate)


def check(named: list[tuple[Block, str]], exists: Callable[[str], object]) -> None:
    """Reports all that do not exist, each with its document and line."""
    assert len(named) > 20
    assert [f"{span.where}: {name}" for span, name in named if not exists(name)] == []
