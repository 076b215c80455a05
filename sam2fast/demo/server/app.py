"""The web application."""

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from sam2fast.demo.server.access import restrict_access
from sam2fast.demo.server.compression import compress_answers
from sam2fast.demo.server.graphql_api import DemoView, make_schema
from sam2fast.demo.server.library import Library
from sam2fast.demo.server.model_routes import make_model_routes
from sam2fast.demo.server.models import LoadModel, Models
from sam2fast.demo.server.photo_routes import make_photo_routes
from sam2fast.demo.server.rest import make_pages, make_routes
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.session_routes import make_session_routes
from sam2fast.demo.server.settings import MEBIBYTE, SERVICE, ServerSettings
from sam2fast.demo.server.uploads import LIMITS, UploadLimits, UploadRequest, Uploads
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

OTHER_FIELDS_BYTES = MEBIBYTE  # limit of an upload's other form fields


class _UnsortedJSON(DefaultJSONProvider):
    sort_keys = False


def make_app(
    settings: ServerSettings, predictor: SAM2VideoPredictor, load: LoadModel | None = None, strategy: str = "sam2"
) -> Flask:
    """Makes the application, for one process with threads: sessions live in its memory.

    Args:
        predictor: the video predictor in eval mode; nothing else may use it afterwards.
        load: builds another model by its name, for clients that change the model; None if they may not.
        strategy: the name of the predictor's tracking strategy.

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
    max_bytes = settings.max_upload_megabytes * MEBIBYTE
    app.config["MAX_CONTENT_LENGTH"] = max_bytes + OTHER_FIELDS_BYTES
    app.extensions[SERVICE] = service
    app.extensions[LIMITS] = UploadLimits(library.incoming, max_bytes)

    compress_answers(app)
    restrict_access(app, settings)
    view = DemoView.as_view("graphql", schema=make_schema(), service=service, uploads=uploads)
    app.add_url_rule("/graphql", view_func=view, methods=["GET", "POST"])
    app.register_blueprint(make_routes(service))
    app.register_blueprint(make_session_routes(service))
    app.register_blueprint(make_photo_routes(service))
    app.register_blueprint(make_model_routes(service, Models(service, load, strategy)))
    app.register_blueprint(make_pages())

    return app
