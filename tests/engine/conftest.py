import copy

import pytest
from mini_model import mini_model


@pytest.fixture(scope="module")
def untouched():
    return mini_model()


@pytest.fixture
def model(untouched):
    """A copy, which tests change."""
    return copy.deepcopy(untouched)
