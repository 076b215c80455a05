"""The page without a server's API is served from any folder."""

import json
from pathlib import Path

from sam2fast.demo.in_browser.app import make_page_app
from sam2fast.demo.in_browser.page import INDEX, SETTINGS
from sam2fast.demo.server.settings import ServerSettings


def test_a_relative_folder(tmp_path, monkeypatch):
    """As SAM2FAST_CACHE may name one."""
    monkeypatch.chdir(tmp_path)
    page = Path("cache/page")
    (page / SETTINGS).parent.mkdir(parents=True)
    (page / SETTINGS).write_text(json.dumps({"imageSize": 64}))
    (page / INDEX).write_text("the page")
    client = make_page_app(ServerSettings(Path("data")), page).test_client()
    assert client.get("/").text == "the page"
