import hard_sentences
import pytest


def changed(text: str) -> str:
    return f"--- a/docs/x.md\n+++ b/docs/x.md\n@@ -3,0 +4,2 @@\n+A good line.\n+{text}\n"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("Masks and those of other objects.", "repeat the noun"),
        ("# What a step reads.", "name the thing"),
        ("Keeps at most so many frames.", "name the number"),
        ("Objects that have none.", "write the noun"),
    ],
)
def test_a_hard_expression_is_named_with_its_line(text: str, cure: str) -> None:
    (found,) = hard_sentences.search(changed(text))
    assert found.startswith(f"docs/x.md:5: {cure}")


def test_a_removed_line_is_not_read() -> None:
    assert not hard_sentences.search("+++ b/x.py\n@@ -3 +2,0 @@\n-Those of objects.\n")


def test_an_accepted_line_passes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = tmp_path / "accepted.txt"
    accepted.write_text("Masks and those of other objects.\n")
    monkeypatch.setattr(hard_sentences, "ACCEPTED", accepted)
    assert not hard_sentences.search(changed("  Masks and those of other objects."))
