import unicodedata
from pathlib import Path

import pytest

from sam2fast.io.image_names import (
    FolderImages,
    distinct_stems,
    find_files,
    pair_masks,
    path_parts,
    relative_names,
    similar_path,
    utf8_text,
)

DECOMPOSED = "train/e\N{COMBINING ACUTE ACCENT}t.jpg"


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["photos/a.png", "photos/b.png"], ["a.png", "b.png"]),
        (["photos/a.png", "./photos/x/../sub/b.png"], ["a.png", "sub/b.png"]),
        (["/data/train/1.jpg", "/data/val/1.jpg"], ["train/1.jpg", "val/1.jpg"]),
        (["/data/1.jpg", "/srv/2.jpg"], ["data/1.jpg", "srv/2.jpg"]),
        (["../photos/a.png"], ["a.png"]),
    ],
)
def test_names_are_relative_to_the_common_parent_folder(images, names):
    assert relative_names([Path(image) for image in images]) == names
    assert relative_names(["https://host/a.png", *map(Path, images), "-"]) == ["https://host/a.png", *names, "-"]
    assert relative_names(["-"]) == ["-"] and relative_names([]) == []


def test_parts_of_paths():
    assert path_parts(" ../x//./a\\ b.jpg ") == ("x", "a", "b.jpg") and path_parts("/") == ()
    assert path_parts("file:///C:/a/b%23c.jpg") == ("C:", "a", "b#c.jpg")


def test_bytes_that_are_not_utf_8():
    assert (
        utf8_text("caf\udce9 %20 \N{LATIN SMALL LETTER E WITH ACUTE}\udcff")
        == "caf%E9 %20 \N{LATIN SMALL LETTER E WITH ACUTE}%FF"
    )
    assert relative_names([Path("photos/caf\udce9.png")]) == ["caf%E9.png"]
    assert path_parts("a\\caf\udce9.png") == path_parts("a/caf%E9.png")
    assert FolderImages(["caf\udce9.png"], Path("photos")).find("caf%E9.png").image == "caf\udce9.png"


def test_stems_that_would_be_equal_keep_the_suffix():
    assert distinct_stems(["a.JPG", "b.png", "x/b.jpg"]) == ["a", "b", "x/b"]
    assert distinct_stems(["IMG_1.HEIC", "img_1.jpg", "2.png"]) == ["IMG_1.HEIC", "img_1.jpg", "2"]
    names = ["a.heic", "a.jpg", "a.jpg.png", "a.jpg.png.tif"]
    assert distinct_stems(names) == names, "a name with a suffix may equal the next name without"


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in (DECOMPOSED, "train/Img 1.jpg", "1/a.png", "2/a.png", "3/b.png", ".hidden/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/Img 1.jpg", None),
        ("./1/../train/Img 1.jpg", None),
        ("train\\Img 1.jpg", "train/Img 1.jpg"),
        ("C:\\photos\\train\\IMG 1.JPG", "train/Img 1.jpg"),
        ("Img 1.jpg", "train/Img 1.jpg"),
        (unicodedata.normalize("NFC", DECOMPOSED), DECOMPOSED),
        ("photos/1/a.png", "1/a.png"),
        ("https://host/2/a.png?x=1", "2/a.png"),
    ],
)
def test_files_are_found_by_similar_names(photos, caplog, name, file):
    found = find_files([name], photos, (".jpg", ".png"))
    assert found == ({} if file is None else {name: file}, {}, []) and not caplog.text


def test_guesses_and_names_that_fit_several_files(photos, caplog):
    names = ["1/a.png", "a.png", "old/b.png", "c.png", "x/Img 1.jpg", "y/Img 1.jpg"]
    found = find_files(names, photos, (".jpg", ".png"))
    assert found.renamed == {"a.png": "2/a.png", "old/b.png": "3/b.png"}, "1/a.png has its own name"
    assert found.missing == ["c.png"] and found.unclear.keys() == {"x/Img 1.jpg", "y/Img 1.jpg"}
    assert "train/Img 1.jpg may be any of x/Img 1.jpg, y/Img 1.jpg" in found.unclear["x/Img 1.jpg"]
    assert f"1 image is matched by the file name only, since folders differ: {photos}/3/b.png" in caplog.text
    found = find_files(["a.png"], photos, (".png",))
    assert list(found.unclear.values()) == [
        f"a.png may be any of 1/a.png, 2/a.png in {photos}; expected names that differ by a folder or a suffix"
    ]


def test_masks_of_images():
    images = [DECOMPOSED, "sub/x.jpg", "x.jpg", "sub/y.JPG", "b.heic", "b.jpg"]
    composed = unicodedata.normalize("NFC", Path(DECOMPOSED).stem)
    owners = pair_masks([composed, "SUB/X", "x", "y", "b", "b.jpg", "z/y"], images, Path("photos"))
    assert owners.owned == {
        DECOMPOSED: [(composed, False)],
        "sub/x.jpg": [("SUB/X", False)],
        "x.jpg": [("x", False)],
        "sub/y.JPG": [("y", False)],
        "b.jpg": [("b.jpg", False)],
    }
    assert owners.unclear.keys() == {"b.heic"} and owners.unpaired == ["z/y"]
    owners = pair_masks(["x_1", "x_2_a", "sub/x/1"], images, Path("photos"), of_objects=True)
    assert owners.owned == {"x.jpg": [("x_1", True), ("x_2_a", True)], "sub/x.jpg": [("sub/x/1", True)]}


def test_similar_paths(photos):
    composed = unicodedata.normalize("NFC", DECOMPOSED)
    for name in (DECOMPOSED, composed, composed.replace("/", "\\")):
        assert similar_path(photos, name) == photos / DECOMPOSED
    for name in ("train/none.jpg", "none\\a.png", "", "/nowhere"):
        assert similar_path(photos, name) == photos / name
