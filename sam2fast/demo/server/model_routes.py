"""Routes of models, tracking strategies, and real clips for the gallery."""

from flask import Blueprint, Response, jsonify, request

from sam2fast.demo.server.background import Downloads
from sam2fast.demo.server.demo_errors import BadInputError
from sam2fast.demo.server.models import Models, check_online, offline_reason
from sam2fast.demo.server.real_clips import SIZE, real_clips
from sam2fast.demo.server.service import DemoService

REAL = "real"


def make_model_routes(service: DemoService, models: Models) -> Blueprint:
    """Routes under ``/api``; they raise :class:`~sam2fast.demo.server.demo_errors.DemoError`."""
    routes = Blueprint("models", __name__)
    clips = Downloads({REAL: real_clips(service.library)})

    @routes.get("/api/models")
    def list_models() -> Response:
        return jsonify(models.as_json())

    @routes.post("/api/models/<name>/download")
    def download(name: str) -> Response:
        models.download(name)
        return jsonify({})

    @routes.post("/api/models/<name>/use")
    def use(name: str) -> Response:
        models.use(name)
        return jsonify({})

    @routes.post("/api/sessions")
    def start_session() -> Response:
        body = request.get_json(force=True, silent=True)
        if not isinstance(body, dict) or not isinstance(body.get("path"), str):
            raise BadInputError('expected a JSON object such as {"path": "gallery/01_dog.mp4", "strategy": "samurai"}')
        strategy = models.check_strategy(body.get("strategy", models.strategy))
        return jsonify({"sessionId": service.start_session(body["path"], strategy).id})

    @routes.get("/api/real_clips")
    def real_clips_status() -> Response:
        status = clips.status(REAL)
        return jsonify({**status, "megabytes": round(SIZE / 1e6, 1), "isOffline": offline_reason() is not None})

    @routes.post("/api/real_clips")
    def get_real_clips() -> Response:
        check_online()
        clips.start(REAL)
        return jsonify({})

    return routes
