"""Whether the oracle agrees with itself under another rounding; where that is slow, it is among the slow tests."""

import pytest

CHECK_ITSELF = pytest.mark.parametrize(
    "check_itself", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["compared", "tame"]
)
