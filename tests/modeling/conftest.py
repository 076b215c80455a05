import copy

import pytest
from parity import NARROW, build_pair


@pytest.fixture(scope="module")
def untouched():
    """The official model and ours, narrow."""
    return build_pair("sam2.1_t", ["++model.image_size=128", *NARROW])


@pytest.fixture
def models(untouched):
    return copy.deepcopy(untouched)
