"""The web demo with SAM 3: a small one."""

import pytest
from demo_client import DemoClient
from small_sam3 import small_sam3

from sam2fast.demo.in_browser.page import write_page


@pytest.fixture(scope="module")
def predictor():
    """Of the servers that the fixture ``make_server`` makes."""
    return small_sam3()


def test_clicks_and_tracking(make_server):
    client = DemoClient(make_server(model="sam3").test_client())
    session = client.start()
    assert client.add(session)[1].shape == (48, 64)
    found = dict(client.track(session))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(masks[1].shape == (48, 64) for masks in found.values())


def test_the_page_in_the_browser_refuses_other_strides(predictor, tmp_path):
    with pytest.raises(ValueError, match="a stride of 16 pixels, so not SAM 3, and sam3 has a stride of 14: export it"):
        write_page(predictor, tmp_path / "page", "sam3")
    assert not (tmp_path / "page").exists()
