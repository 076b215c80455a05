"""Every code block of the documents is of a kind that a test here runs or parses."""

from document_blocks import (
    all_blocks,
    as_json,
    blocks_of,
    documents,
    kind,
)


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
