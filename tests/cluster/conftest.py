from collections.abc import Iterator
from pathlib import Path

import pytest
from small_ray import small_ray


@pytest.fixture(scope="package")
def ray_folder() -> Iterator[Path]:
    """This process is connected to a small Ray; its folder."""
    with small_ray() as folder:
        yield folder
