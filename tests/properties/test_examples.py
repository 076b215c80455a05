"""The examples that the property-based tests draw."""

import hypothesis_profiles
import pytest
from hypothesis.internal.conjecture import providers


@pytest.mark.skipif(hypothesis_profiles.IS_CAMPAIGN, reason="a campaign draws at random")
def test_examples_do_not_hang_on_what_was_imported():
    """With this version of hypothesis the profile still takes numbers of imported sources out of the drawing."""
    constants = providers._get_local_constants()
    assert constants is hypothesis_profiles.no_constants
