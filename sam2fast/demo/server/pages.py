"""The front end's files."""

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from sam2fast.demo.server.errors import NotFoundError, shown

BUNDLE = Path(__file__).with_name("static")
INDEX = "index.html"
HASHED = "assets/"  # files whose names change with their content
NOT_PAGES = ("api/", "graphql", "gallery/", "posters/", "uploads/", "propagate_in_video")
MISSING = """<!doctype html><html lang="en"><title>sam2fast</title>
<h1>The front end is not installed</h1>
<p>The server runs, and its API answers; see docs/serve.md. In a checkout, build the front end with
<code>make frontend</code>, then load this page again.</p></html>
"""


def make_pages(bundle: Path = BUNDLE) -> Blueprint:
    """The page at ``/``, at every path that only the front end knows, and the files that it needs."""
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    @pages.get("/<path:name>")
    def page(name: str = INDEX) -> Response:
        # A name with a dot is a file; another one is a place within the front end.
        is_page = name == INDEX or ("." not in name and not name.startswith(NOT_PAGES))
        if not is_page:
            answer = send_from_directory(bundle, name)
            answer.headers["Cache-Control"] = (
                "public, max-age=31536000, immutable" if name.startswith(HASHED) else "no-cache"
            )
            return answer
        if not (bundle / INDEX).is_file():
            return Response(MISSING, 503, content_type="text/html; charset=utf-8")
        answer = send_from_directory(bundle, INDEX)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    @pages.get("/api/<path:name>")
    def nothing(name: str) -> Response:
        raise NotFoundError(f"there is nothing at {shown('/api/' + name)}; see docs/serve.md")

    return pages
