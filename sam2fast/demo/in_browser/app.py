"""Serves the page whose model runs in the browser: its files, and the gallery of the data folder."""

import json
from pathlib import Path

from flask import Flask, Response, jsonify, send_from_directory

from sam2fast.demo.in_browser.page import INDEX, SETTINGS, settings_of
from sam2fast.demo.server.access import CONTENT_POLICY, restrict_access
from sam2fast.demo.server.library import GALLERY, POSTERS, Library
from sam2fast.demo.server.rest import serve_videos
from sam2fast.demo.server.settings import ServerSettings

# WebAssembly is compiled in the page; it runs in several threads where no other site's content can be embedded.
HEADERS = {
    "Content-Security-Policy": f"script-src 'self' 'wasm-unsafe-eval'; {CONTENT_POLICY}",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}


def make_page_app(settings: ServerSettings, page: Path) -> Flask:
    """Makes the application.

    Args:
        page: the folder that :func:`sam2fast.demo.in_browser.page.write_page` has written.

    Raises:
        OSError: the data folder cannot be created.
    """
    library = Library(settings.data)
    image_size = json.loads((page / SETTINGS).read_text(encoding="utf-8"))["imageSize"]
    app = Flask(__name__, static_folder=None)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    restrict_access(app, settings)

    @app.get(f"/{SETTINGS}")
    def page_settings() -> Response:
        return jsonify(settings_of(settings.model, image_size, library.gallery()))

    serve_videos(app, library, GALLERY, POSTERS)

    @app.get("/")
    @app.get("/<path:name>")
    def file(name: str = INDEX) -> Response:
        return send_from_directory(page.absolute(), name)  # a relative one would be below the package

    return app
