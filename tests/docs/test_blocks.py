"""Every code block of the documents is of a kind that a test here runs or parses."""

import pytest
from document_blocks import (
    ROOT,
    Block,
    UnknownBlockError,
    all_blocks,
    all_spans,
    as_json,
    blocks_of,
    documents,
    find_blocks,
    find_spans,
    kind,
)

TEXT = """Words.

    sam2fast env \\
        --json

- an item

    that goes on

        make lint

```python
x = `1`
```
and `make
test` here, ``not `this` ``.
"""


def test_blocks_and_spans_are_found_with_their_lines():
    found = list(find_blocks("a.md", TEXT))
    assert found == [
        Block("a.md", 3, None, "sam2fast env \\\n    --json"),
        Block("a.md", 10, None, "make lint"),
        Block("a.md", 13, "python", "x = `1`"),
    ]
    assert [(span.line, span.text) for span in find_spans("a.md", TEXT)] == [(15, "make test")]
    with pytest.raises(UnknownBlockError, match="a.md:1: the fence is not closed"):
        list(find_blocks("a.md", "```python\nx = 1"))


@pytest.mark.parametrize(
    ("fence", "text", "expected"),
    [
        (None, "A=1 sam2fast env  # why\n# alone\nmake lint && pip install .", "shell"),
        (None, "sam2 fast\nmake lint", None),
        (None, "import x\n\n\ndef f():\n    ...", "python"),
        (None, "f(x)", "python"),
        (None, "f", None),
        (None, "trainer: {a: 1}", "yaml"),
        (None, '{"a": [1, ...], "b": [...], ...}', "json"),
        (None, "a/b.jpg   what it is\nc/   that", "text"),
        ("python", "f", "python"),
        ("", "f", None),
        ("perl", "f", None),
    ],
)
def test_kinds(fence, text, expected):
    block = Block("a.md", 7, fence, text)
    if expected is None:
        with pytest.raises(UnknownBlockError, match=r"^a\.md:7: "):
            kind(block)
    else:
        assert kind(block) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from sam2fast.research import backend\n\nwith backend('torch'):\n    ...", "python"),
        ("area = masks.sum()", "python"),
        ("import sam2fast  # and what is\nno Python", "python"),
        ("make lint", "shell"),
        ("E(n, x) - c(n, x) + n + 1", "formula"),
        ("kept_i = not any (kept_j and O_ji for j < i)", "formula"),
        ("bytes  9 · N · P", "formula"),
    ],
)
def test_kinds_on_the_pages_of_kernels(text, expected):
    assert kind(Block("docs/kernels/nms.md", 7, None, text)) == expected


def test_notebooks_are_read():
    """Their text, cell by cell."""
    spans = [span for span in all_spans() if span.file.startswith("notebooks/")]
    assert {span.file.partition(",")[0] for span in spans} == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    assert any(span.text.startswith("sam2fast track ") for span in spans)


def test_every_block_is_of_a_kind():
    """A failure names the first unclassified block; give it a fence with a language."""
    kinds = {block.where: kind(block) for block in all_blocks()}
    assert set(kinds.values()) == {"python", "shell", "yaml", "json", "text", "formula"}
    assert len(documents()) > 40 and len(kinds) > 130


def test_json_is_json():
    for block in blocks_of("json"):
        assert as_json(block.text) is not None, block.where


def test_python_is_python():
    """Also if it cannot be run."""
    for block in blocks_of("python"):
        compile(block.text, block.where, "exec")
