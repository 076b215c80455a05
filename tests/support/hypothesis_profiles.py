"""Property-based tests run a few examples, always the same, in ``make test``, and a long campaign when asked for.

``SAM2FAST_EXAMPLES=20`` runs twenty times as many random examples; ``make properties`` also prints the seed.
"""

import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, configuration, settings
from hypothesis.internal.conjecture import providers

VARIABLE = "SAM2FAST_EXAMPLES"
IS_CAMPAIGN = VARIABLE in os.environ
# What hypothesis keeps of the sources it has seen, of Unicode and of failures.
configuration.set_hypothesis_home_dir(Path(__file__).parents[2] / ".cache" / "hypothesis")


FACTOR = int(os.environ.get(VARIABLE, "1"))
# Internal to hypothesis: it may differ in versions other than that of constraints.txt.
if not IS_CAMPAIGN and hasattr(providers, "Constants") and hasattr(providers, "_get_local_constants"):
    # Numbers that stand in the sources are drawn more often, from those modules that happen to be imported: examples
    # would depend on which tests ran before.
    no_constants = providers.Constants()
    providers._get_local_constants = lambda: no_constants


def examples(count: int, **more: Any) -> settings:
    """Settings of a test with ``count`` examples, multiplied in a campaign.

    A decorator for functions with ``@given``; for a state machine, ``Machine.TestCase.settings``.
    """
    of_all: dict[str, Any] = {
        "deadline": None,
        "derandomize": not IS_CAMPAIGN,
        "database": None,
        "print_blob": True,
        # The time to generate examples depends on the machine's load.
        "suppress_health_check": [HealthCheck.too_slow],
    }
    return settings(**{**of_all, "max_examples": count * FACTOR, **more})
