"""Whether the oracle agrees with itself under a harmless change of rounding, which explains a comparison that fails.

Where that takes as long as the comparison it is among the slow tests: a comparison that passes is none the worse.
"""

import pytest

CHECK_ITSELF = pytest.mark.parametrize(
    "check_itself", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["compared", "tame"]
)
