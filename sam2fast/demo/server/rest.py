"""Everything besides GraphQL: the stream of tracked frames, files, facts about the server and about sessions."""

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from flask import Blueprint, Response, jsonify, request, send_file
from PIL import Image

from sam2fast.demo.server import exports
from sam2fast.demo.server.errors import BadInputError, shown
from sam2fast.demo.server.framing import CONTENT_TYPE, encode_part
from sam2fast.demo.server.library import GALLERY, POSTERS, UPLOADS
from sam2fast.demo.server.pictures import frame_picture
from sam2fast.demo.server.service import DemoService, FrameMasks
from sam2fast.demo.server.session import Session
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.demo.server.uploads import FORMATS

_log = logging.getLogger(__name__)

JPEG_QUALITY = 90


def make_routes(service: DemoService) -> Blueprint:
    """The routes; what they refuse is a :class:`~sam2fast.demo.server.errors.DemoError`."""
    routes = Blueprint("rest", __name__)
    sessions, settings = service.sessions, service.settings

    @routes.get("/healthy")
    def healthy() -> Response:
        return Response("OK", content_type="text/plain")

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        facts = {
            "ready": not service.is_closing,
            "model": settings.model,
            "device": str(service.predictor.device),
            "sessions": len(sessions),
            "limits": _limits(settings, service),
        }
        return jsonify(facts), 503 if service.is_closing else 200

    @routes.get("/api/limits")
    def limits() -> Response:
        return jsonify(_limits(settings, service))

    for folder in (GALLERY, POSTERS, UPLOADS):
        routes.add_url_rule(
            f"/{folder}/<path:name>",
            endpoint=folder,
            view_func=lambda name, folder=folder: send_file(service.library.file(folder, name)),
        )

    @routes.post("/propagate_in_video")
    def propagate_in_video() -> Response:
        asked = request.get_json(force=True, silent=True)
        if not isinstance(asked, dict):
            raise BadInputError('expected a JSON object such as {"session_id": "...", "start_frame_index": 0}')
        session_id, start = asked.get("session_id"), asked.get("start_frame_index", 0)
        if not isinstance(session_id, str):
            raise BadInputError(f"session_id is {shown(session_id)}; expected the id that startSession gave")
        if not isinstance(start, int) or isinstance(start, bool):
            raise BadInputError(f"start_frame_index is {shown(start)}; expected the number of a frame")
        frames = service.track(session_id, start, asked.get("direction", "both"))
        return Response(_parts(frames), content_type=CONTENT_TYPE)

    @routes.get("/api/sessions/<session_id>")
    def session_facts(session_id: str) -> Response:
        session = sessions.get(session_id)
        height, width = session.state.video_size
        return jsonify(
            {
                "path": session.path,
                "fps": session.state.frames.rate,
                "numFrames": session.state.num_frames,
                "width": width,
                "height": height,
                "secondsLeft": round(sessions.seconds_left(session), 1),
                "isTracking": session.is_tracking,
                "trackedFrames": sorted(session.tracked),
                "framesWithMasks": sorted(session.masks),
                "objects": list(session.state.objects),
                "problem": session.problem,
            }
        )

    @routes.post("/api/sessions/<session_id>/renew")
    def renew(session_id: str) -> Response:
        return jsonify({"secondsLeft": round(sessions.seconds_left(sessions.use(session_id)), 1)})

    @routes.get("/api/sessions/<session_id>/frames/<int:frame>.jpg")
    def frame_file(session_id: str, frame: int) -> Response:
        session = sessions.use(session_id)
        picture, file = frame_picture(session.file, frame, session.state.num_frames), BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        return Response(file.getvalue(), content_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @routes.get("/api/sessions/<session_id>/export")
    def export(session_id: str) -> Response:
        session = sessions.use(session_id)
        made = exports.make(_exported(session), request.args.get("format", ""), service.library.incoming)
        try:
            return send_file(made.path, made.content_type, as_attachment=True, download_name=made.name, max_age=0)
        finally:
            made.path.unlink()  # it is open already, and gone when it is sent

    return routes


def _limits(settings: ServerSettings, service: DemoService) -> dict[str, Any]:
    return {
        "maxUploadMB": settings.max_upload_megabytes,
        "maxSeconds": settings.max_seconds,
        "formats": list(FORMATS),
        "maxSessions": settings.max_sessions,
        "sessionMinutes": settings.session_minutes,
        "maxObjects": service.budget.objects,
        "model": settings.model,
        "imageSize": service.predictor.image_size,
    }


def _exported(session: Session) -> exports.Exported:
    state = session.state
    known = dict(session.masks)  # the model's thread may be at them
    masks = {frame: known[frame] for frame in sorted(known)}
    return exports.Exported(session.file, state.num_frames, state.video_size, state.frames.rate, masks)


def _parts(frames: Iterator[FrameMasks]) -> Iterator[bytes]:
    """Whoever serves this closes it when the client has gone, and with it the track."""
    try:
        for frame, masks in frames:
            yield encode_part(frame, masks)
    except GeneratorExit:
        raise
    except Exception:
        # There is no other way to say so within the stream than to break it.
        _log.exception("a track has failed")
        raise
