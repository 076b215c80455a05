"""Files with names as long as names can be: what is added to them while they are written must fit, too."""

import errno
import os
from pathlib import Path

import pytest

from sam2fast.checkpoints.replacing import replacing
from sam2fast.cli.files import remove_leftovers
from sam2fast.short_names import MOST_ADDED, MOST_BYTES, shortened
from sam2fast.whole_files import moved_to, written_whole

WAYS = ["moved_to", "written_whole", "in_folder", "replacing"]


def write(way: str, path: Path, content: bytes = b"content") -> None:
    if way == "written_whole":
        with written_whole(path) as file:
            file.write(content)
        return
    ways = {"replacing": lambda: replacing(path, force=True)}
    with ways.get(way, lambda: moved_to(path, in_folder=way == "in_folder"))() as partial:
        partial.write_bytes(content)
        assert partial.suffix == path.suffix or way == "moved_to"


# The last of them is not cut.
LONG = ["映" * 78 + ".pt2", "x" * 251 + ".pt2", "é" * 125 + "x.pt2", "🎬" * 62 + "xyz.pt2", "x" * 219 + ".pt2"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LONG, ids=lambda name: f"{name[0]}{len(os.fsencode(name))}")
def test_long_names_can_be_written(way: str, name: str, tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write(way, tmp_path / name, content)
        assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["x" * 252 + ".pt2", "映" * 84 + ".pt2"], ids=["x", "映"])
def test_names_that_are_too_long_are_told_before_the_work(way: str, name: str, tmp_path: Path) -> None:
    assert len(os.fsencode(name)) == MOST_BYTES + 1
    with pytest.raises(OSError, match="name too long") as caught:
        write(way, tmp_path / name)
        pytest.fail("it was written")
    assert caught.value.errno == errno.ENAMETOOLONG and caught.value.filename == str(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.json", "a", ".a", "x" * 223, *LONG, "映" * 85, "x." + "y" * 253, "\udcff" * 255])
def test_shortened(name: str) -> None:
    short = shortened(name)
    assert len(os.fsencode(short)) <= MOST_BYTES - MOST_ADDED
    if len(os.fsencode(name)) <= MOST_BYTES - MOST_ADDED:
        assert short == name
        return
    stem, _, rest = short.partition("~")
    assert name.startswith(stem) and len(stem) > 40 and shortened(name) == short
    assert rest.endswith(Path(name).suffix) or name.startswith("x.")


def test_names_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    """What is left of one of them is removed by whoever writes that one, and by nobody else."""
    one, other = (tmp_path / ("映" * 80 + end + ".pt") for end in "ab")
    assert shortened(one.name)[:60] == shortened(other.name)[:60] and shortened(one.name) != shortened(other.name)
    with replacing(one, force=False) as partial:
        partial.write_text("one")
        with replacing(other, force=False) as second:
            second.write_text("other")
        assert partial.read_text() == "one"
    left = tmp_path / f".7.part.{shortened(one.name)}"
    left.write_text("of a process that was killed")
    write("replacing", other)
    assert left.exists()
    write("replacing", one)
    assert not left.exists() and sorted(os.listdir(tmp_path)) == [one.name, other.name]


def test_the_folder_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    path = tmp_path / ("映" * 85)
    (tmp_path / f".7.before.{shortened(path.name)}").mkdir()
    with pytest.raises(ZeroDivisionError), replacing(path, force=True):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == [path.name]


def test_leftovers_of_commands(tmp_path: Path) -> None:
    """And not those of a name that begins alike."""
    name, other = "映" * 80 + "a.png", "映" * 80 + "b.png"
    for whose in (name, other):
        (tmp_path / f".{shortened(whose)}.7.part").touch()
    remove_leftovers([tmp_path / name])
    assert os.listdir(tmp_path) == [f".{shortened(other)}.7.part"]
