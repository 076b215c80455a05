from collections.abc import Iterator
from pathlib import Path

import pytest
from small_ray import small_ray


@pytest.fixture(scope="package")
def ray_folder() -> Iterator[Path]:
    """Connects this process to a small Ray; returns its folder."""
    with small_ray() as folder:
        yield folder
