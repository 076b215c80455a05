"""Items that a command leaves out: counts, the note and the JSON."""

from sam2fast.cli.left_out import LeftOut


def test_counts_by_reason(capfd):
    left_out, other = LeftOut(), LeftOut()
    assert not left_out and left_out.as_json() == []
    left_out.report()
    assert capfd.readouterr().err == ""
    left_out.add("box", "it has no area", "a.txt, line 3")
    other.add("box", "it has no\narea", "b.txt, line 1", 2)
    other.add("image", "it has no prompts", "c.jpg")
    left_out.add_all(other)
    assert left_out.as_json() == [
        {"what": "box", "why": "it has no area", "count": 3, "first": "a.txt, line 3"},
        {"what": "image", "why": "it has no prompts", "count": 1, "first": "c.jpg"},
    ]
    left_out.report()
    assert capfd.readouterr().err == (
        "sam2fast: note: left out: 3 boxes (it has no area; first: a.txt, line 3), 1 image (it has no prompts; c.jpg)\n"
    )
