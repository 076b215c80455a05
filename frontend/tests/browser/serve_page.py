"""Serves a page as ``sam2fast serve --in-browser`` does, and prints its address.

Usage: python serve_page.py PAGE DATA
"""

import sys
from pathlib import Path

from werkzeug.serving import make_server

from sam2fast.demo.in_browser.app import make_page_app
from sam2fast.demo.server.settings import ServerSettings

page, data = map(Path, sys.argv[1:])
server = make_server("127.0.0.1", 0, make_page_app(ServerSettings(data, "nano"), page), threaded=True)
print(f"http://127.0.0.1:{server.port}/", flush=True)
server.serve_forever()
