from pathlib import Path

import pytest

from sam2fast.io.image_names import relative_names


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
