"""EdgeTAM with four blocks where its image encoder has fourteen; in engine/test_sessions.py it has all."""

from collections.abc import Iterator

import pytest

from sam2fast.modeling import repvit


@pytest.fixture(scope="module", autouse=True)
def shallow_repvit() -> Iterator[None]:
    """Models of the module that imports this are built so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repvit, "DEPTHS", (2, 2, 4, 2))
        yield
