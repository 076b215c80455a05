"""Routes besides GraphQL: the stream of tracked frames, files, status of the server, the page."""

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request, send_file, send_from_directory

from sam2fast.demo.server import BUNDLE
from sam2fast.demo.server.demo_errors import BadInputError, DemoError, NotFoundError, shortened
from sam2fast.demo.server.frame_masks import CONTENT_TYPE, FrameMasks, encode_part
from sam2fast.demo.server.library import GALLERY, POSTERS, UPLOADS, Library
from sam2fast.demo.server.model_calls import TrackPlan
from sam2fast.demo.server.photos import ENDINGS, MAX_PIXELS
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.demo.server.transcode import MAX_RATE
from sam2fast.demo.server.uploads import FORMATS

_log = logging.getLogger(__name__)

INDEX = "index.html"
HASHED = "assets/"  # files whose names change with their content
NOT_PAGES = ("api/", "graphql", "gallery/", "posters/", "uploads/", "propagate_in_video")
MISSING = """<!doctype html><html lang="en"><title>sam2fast</title>
<h1>The front end is not installed</h1>
<p>The server runs, and its API answers; see docs/serve.md. In a checkout, build the front end with
<code>make frontend</code>, then load this page again.</p></html>
"""


def make_routes(service: DemoService) -> Blueprint:
    """The API's routes; they raise :class:`~sam2fast.demo.server.demo_errors.DemoError`."""
    routes = Blueprint("rest", __name__)
    settings = service.settings

    @routes.get("/healthy")
    def healthy() -> Response:
        return Response("OK", content_type="text/plain")

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        status = {
            "ready": not service.is_closing,
            "model": service.model_name,
            "device": str(service.predictor.device),
            "sessions": len(service.sessions),
            "limits": _limits(settings, service),
        }
        return jsonify(status), 503 if service.is_closing else 200

    @routes.get("/api/limits")
    def limits() -> Response:
        return jsonify(_limits(settings, service))

    serve_videos(routes, service.library, GALLERY, POSTERS, UPLOADS)

    @routes.post("/propagate_in_video")
    def propagate_in_video() -> Response:
        body = request.get_json(force=True, silent=True)
        if not isinstance(body, dict):
            raise BadInputError('expected a JSON object such as {"session_id": "...", "start_frame_index": 0}')
        session_id = body.get("session_id")
        if not isinstance(session_id, str):
            raise BadInputError(f"session_id is {shortened(session_id)}; expected the id that startSession returned")
        ids = body.get("object_ids")
        if ids is not None and not (isinstance(ids, list) and ids and all(type(i) is int for i in ids)):
            raise BadInputError(f"object_ids is {shortened(ids)}; expected a list of objects' ids")
        plan = TrackPlan(_integer(body, "start_frame_index", 0), _integer(body, "end_frame_index", None), ids)
        frames = service.track(session_id, plan, body.get("direction", "both"))
        return Response(_stream(frames), content_type=CONTENT_TYPE)

    return routes


def serve_videos(app: Flask | Blueprint, library: Library, *folders: str) -> None:
    """Adds routes to the files in these folders of a library."""

    def send(name: str, folder: str) -> Response:
        if "," in request.headers.get("Range", ""):  # several ranges: the whole file is an answer, too (RFC 9110, 14.2)
            request.environ.pop("HTTP_RANGE")
        return send_file(library.file(folder, name))

    for folder in folders:
        app.add_url_rule(f"/{folder}/<path:name>", endpoint=folder, view_func=partial(send, folder=folder))


def _limits(settings: ServerSettings, service: DemoService) -> dict[str, Any]:
    return {
        "maxUploadMB": settings.max_upload_megabytes,
        "maxSeconds": settings.max_seconds,
        "formats": list(FORMATS),
        "photoFormats": list(ENDINGS),
        "maxPhotoPixels": MAX_PIXELS,
        "maxSessions": settings.max_sessions,
        "sessionMinutes": settings.session_minutes,
        "maxObjects": service.budget.objects(math.ceil(settings.max_seconds * (settings.fps or MAX_RATE))),
        "model": service.model_name,
        "imageSize": service.predictor.image_size,
    }


def _integer(body: dict[str, Any], name: str, default: Any) -> Any:
    found = body.get(name, default)
    if found is not default and type(found) is not int:
        raise BadInputError(f"{name} is {shortened(found)}; expected the number of a frame")
    return found


def _stream(frames: Iterator[FrameMasks]) -> Iterator[bytes]:
    """The HTTP server closes this generator when the client disconnects, which ends the track."""
    try:
        for frame, masks in frames:
            yield encode_part(frame, masks)
    # The stream has no error message; it can only be broken off.
    except DemoError as error:
        _log.warning("tracking ended: %s", error)
        raise
    except Exception:
        _log.exception("tracking failed")
        raise


def make_pages() -> Blueprint:
    """The front end: its page at ``/`` and at the paths that it routes itself, and its files."""
    pages = Blueprint("pages", __name__)

    @pages.get("/")
    @pages.get("/<path:name>")
    def page(name: str = INDEX) -> Response:
        # A name with a dot is a file; any other name is a route of the front end.
        if "." not in name and not name.startswith(NOT_PAGES):
            name = INDEX
        if name == INDEX and not (BUNDLE / INDEX).is_file():
            return Response(MISSING, 503, content_type="text/html; charset=utf-8")
        response = send_from_directory(BUNDLE, name)
        is_hashed = name.startswith(HASHED)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
        return response

    @pages.get("/api/<path:name>")
    def not_found(name: str) -> Response:
        raise NotFoundError(f"there is nothing at {shortened('/api/' + name)}; see docs/serve.md")

    return pages
