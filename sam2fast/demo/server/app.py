"""The web application."""

import logging

from flask import Flask, Response, jsonify
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from sam2fast.demo.server.access import restrict_access, too_large_error
from sam2fast.demo.server.demo_errors import BadInputError, DemoError
from sam2fast.demo.server.graphql_api import DemoView, make_schema
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.rest import make_pages, make_routes
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.settings import MEBIBYTE, ServerSettings
from sam2fast.demo.server.uploads import LIMITS, UploadLimits, UploadRequest, Uploads
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

_log = logging.getLogger(__name__)

SERVICE = "sam2fast"  # key of the DemoService in ``app.extensions``
OTHER_FIELDS_BYTES = MEBIBYTE  # limit of an upload's other form fields


class _UnsortedJSON(DefaultJSONProvider):
    sort_keys = False


def make_app(settings: ServerSettings, predictor: SAM2VideoPredictor) -> Flask:
    """Makes the application, for one process with threads: sessions live in its memory.

    Args:
        predictor: the video predictor in eval mode; nothing else may use it afterwards.

    Returns:
        A Flask application; ``app.extensions["sam2fast"]`` is its
        :class:`~sam2fast.demo.server.service.DemoService`; the caller closes it.

    Raises:
        OSError: the data folder cannot be created.
    """
    library = Library(settings.data)
    service = DemoService(settings, predictor, library)
    uploads = Uploads(settings, library, service.sessions)

    app = Flask(__name__, static_folder=None)
    app.request_class = UploadRequest
    app.json = _UnsortedJSON(app)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes + OTHER_FIELDS_BYTES
    app.extensions[SERVICE] = service
    app.extensions[LIMITS] = UploadLimits(library.incoming, settings.max_upload_bytes)

    restrict_access(app, settings)
    view = DemoView.as_view("graphql", schema=make_schema(), service=service, uploads=uploads)
    app.add_url_rule("/graphql", view_func=view, methods=["GET", "POST"])
    app.register_blueprint(make_routes(service))
    app.register_blueprint(make_pages())

    @app.errorhandler(DemoError)
    def refuse(error: DemoError) -> tuple[Response, int]:
        return _error_response(error.code, str(error), error.status)

    @app.errorhandler(RequestEntityTooLarge)
    def refuse_size(_: RequestEntityTooLarge) -> tuple[Response, int]:
        return refuse(too_large_error(settings))

    @app.errorhandler(HTTPException)
    def refuse_request(error: HTTPException) -> tuple[Response, int]:
        return _error_response(error.name.upper().replace(" ", "_"), error.description or error.name, error.code or 500)

    @app.errorhandler(RecursionError)
    def refuse_depth(error: RecursionError) -> tuple[Response, int]:
        return _error_response(BadInputError.code, "the request is nested too deeply", BadInputError.status)

    @app.errorhandler(Exception)
    def fail(error: Exception) -> tuple[Response, int]:
        _log.exception("a request failed")
        return _error_response(DemoError.code, "the server failed; its log says more", DemoError.status)

    return app


def _error_response(code: str, message: str, status: int) -> tuple[Response, int]:
    return jsonify({"error": {"code": code, "message": message}}), status
