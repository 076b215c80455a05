"""The web application."""

import logging

from flask import Flask, Response, jsonify
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sam2fast.demo.server.access import guard, too_large
from sam2fast.demo.server.errors import BadInputError, DemoError
from sam2fast.demo.server.graphql_view import DemoView
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.pages import make_pages
from sam2fast.demo.server.rest import make_routes
from sam2fast.demo.server.schema import make_schema
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.settings import MEBIBYTE, ServerSettings
from sam2fast.demo.server.uploads import LIMITS, UploadLimits, UploadRequest, Uploads
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

_log = logging.getLogger(__name__)

SERVICE = "sam2fast"  # where an app keeps its DemoService
BESIDES_THE_FILE = MEBIBYTE  # how much a request may hold of other things


class _JSONInOrder(DefaultJSONProvider):
    sort_keys = False


def make_app(settings: ServerSettings, predictor: SAM2VideoPredictor) -> Flask:
    """An application for one process with threads, since sessions live in its memory.

    Args:
        predictor: for video, in eval mode; the application's own from here on.

    Returns:
        A Flask application; ``app.extensions["sam2fast"]`` is its
        :class:`~sam2fast.demo.server.service.DemoService`, to be closed in the end.

    Raises:
        OSError: the data folder cannot be made.
    """
    library = Library(settings.data)
    service = DemoService(settings, predictor, library)
    uploads = Uploads(settings, library, service.sessions)

    app = Flask(__name__, static_folder=None)
    app.request_class = UploadRequest
    app.json = _JSONInOrder(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes + BESIDES_THE_FILE
    app.extensions[SERVICE] = service
    app.extensions[LIMITS] = UploadLimits(library.incoming, settings.max_upload_bytes)

    guard(app, settings)
    view = DemoView.as_view("graphql", schema=make_schema(), service=service, uploads=uploads)
    app.add_url_rule("/graphql", view_func=view, methods=["GET", "POST"])
    app.register_blueprint(make_routes(service))
    app.register_blueprint(make_pages())

    @app.errorhandler(DemoError)
    def refuse(error: DemoError) -> tuple[Response, int]:
        return _problem(error.code, str(error), error.status)

    @app.errorhandler(RequestEntityTooLarge)
    def refuse_size(_: RequestEntityTooLarge) -> tuple[Response, int]:
        return refuse(too_large(settings))

    @app.errorhandler(HTTPException)
    def refuse_request(error: HTTPException) -> tuple[Response, int]:
        return _problem(error.name.upper().replace(" ", "_"), error.description or error.name, error.code or 500)

    @app.errorhandler(RecursionError)
    def refuse_depth(error: RecursionError) -> tuple[Response, int]:
        return _problem(BadInputError.code, "the request is nested too deeply", BadInputError.status)

    @app.errorhandler(Exception)
    def fail(error: Exception) -> tuple[Response, int]:
        _log.exception("a request has failed")
        return _problem(DemoError.code, "the server failed; its log says more", DemoError.status)

    return app


def _problem(code: str, message: str, status: int) -> tuple[Response, int]:
    return jsonify({"error": {"code": code, "message": message}}), status
