"""Routes of a session: its status, its frames, masks in both directions, and files."""

import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from flask import Blueprint, Response, jsonify, request
from PIL import Image

from sam2fast.demo.server import exports
from sam2fast.demo.server.alpha import read_edges
from sam2fast.demo.server.demo_errors import BadInputError, shortened
from sam2fast.demo.server.encode import encode
from sam2fast.demo.server.export_data import QUALITIES, ExportData
from sam2fast.demo.server.jobs import Report, ignore_progress
from sam2fast.demo.server.mask_import import VideoShape, read_masks
from sam2fast.demo.server.model_calls import Clicks
from sam2fast.demo.server.page_masks import read_classes, read_mask, read_page_masks
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.sessions import Session
from sam2fast.demo.server.source_masks import match_logits
from sam2fast.demo.server.transcode import Transcoded
from sam2fast.demo.server.video_files import read_frame

JPEG_QUALITY = 90


def make_session_routes(service: DemoService) -> Blueprint:
    """Routes under ``/api/sessions`` and ``/api/jobs``. They raise DemoError."""
    routes = Blueprint("sessions", __name__)
    sessions = service.sessions

    def requested_data(session: Session, report: Report) -> ExportData:
        """The masks of the session or of the request, at the requested size."""
        data = _export_data(session)._replace(report=report, edges=read_edges(request.args))
        data = data._replace(tolerance=exports.requested_tolerance())
        clean, limits = _requested_clean(), dict[int, float]()
        if request.method == "POST":
            body = _json_object()
            page = read_page_masks(body, data.frames, data.size)
            data = data._replace(masks=page.masks, names=page.names, labels=page.labels, listed=read_classes(body))
            limits = page.limits
        limits = dict.fromkeys(data.objects, clean) | limits if clean else limits
        source, made = service.library.source_of(session.path), service.library.made_of(session.path)
        if made is not None:
            data = data._replace(first=round(made.start * made.rate))
        is_larger = source is not None and request.args.get("size") != "seen"
        if is_larger or data.edges.kind == "matte":
            logits = service.call(service.calls.mask_logits, session.id, data.masks.keys())
        with exports.export_slot():  # this keeps a CPU core busy, too
            if data.edges.kind == "matte":
                data = data._replace(logits=match_logits(data.masks, logits, lambda share: report(0.1 * share)))
            if source is not None and is_larger:
                data = data.at_source(source, logits)
            elif source is not None:
                feather = data.edges.feather * data.size[0] / source.made.size[0]  # given in pixels of the source
                data = data._replace(edges=data.edges._replace(feather=feather))
            return data.cleaned(limits)

    @routes.get("/api/sessions/<session_id>")
    def session_status(session_id: str) -> Response:
        session = sessions.get(session_id)
        height, width = session.state.video_size
        source = service.library.source_of(session.path)
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
                "source": source and dict(zip(("height", "width"), source.made.size, strict=True)),
                "numbering": _numbering(service.library.made_of(session.path)),
            }
        )

    @routes.get("/api/jobs/<job>")
    def job_share(job: str) -> Response:
        return jsonify({"share": service.jobs.share(job)})

    @routes.delete("/api/jobs/<job>")
    def cancel_job(job: str) -> Response:
        service.jobs.cancel(job)
        return jsonify({})

    @routes.post("/api/sessions/<session_id>/renew")
    def renew(session_id: str) -> Response:
        return jsonify({"secondsLeft": round(sessions.seconds_left(sessions.use(session_id)), 1)})

    @routes.get("/api/sessions/<session_id>/frames/<int:frame>.jpg")
    def frame_file(session_id: str, frame: int) -> Response:
        session = sessions.use(session_id)
        pixels, file = read_frame(session.file, frame, session.state.num_frames), BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        return Response(file.getvalue(), content_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @routes.route("/api/sessions/<session_id>/export", methods=["GET", "POST"])
    def export(session_id: str) -> Response:
        session = sessions.use(session_id)
        with service.jobs.run(request.args.get("job")) as report:
            data = requested_data(session, report)
            exported = exports.export(data, request.args.get("format", ""), service.library.incoming)
        options = {"as_attachment": True, "download_name": exported.name}
        return exports.send_once(exported.path, exported.content_type, **options)

    @routes.post("/api/sessions/<session_id>/points")
    def count_points(session_id: str) -> Response:
        return jsonify({"points": exports.count_points(requested_data(sessions.use(session_id), ignore_progress))})

    @routes.post("/api/sessions/<session_id>/preview")
    def preview(session_id: str) -> Response:
        session, body = sessions.use(session_id), _json_object()
        frame, object_id = _frame_and_object(body)
        refine = body.get("refine") is True
        # Refinements follow the pointer; the masks to choose from are asked for once.
        ticket = session.next_preview() if refine else None
        found = service.call(service.calls.preview, session_id, ticket, frame, object_id, _clicks(body), refine)
        return jsonify({"masks": [{**mask.rle, "iou": mask.iou, "object_score": mask.object_score} for mask in found]})

    @routes.post("/api/sessions/<session_id>/masks")
    def add_mask(session_id: str) -> Response:
        session, body = sessions.use(session_id), _json_object()
        frame, object_id = _frame_and_object(body)
        mask = read_mask(body.get("mask"), session.state.video_size)
        service.call(service.calls.add_mask, session_id, frame, object_id, mask)
        return jsonify({})

    @routes.post("/api/sessions/<session_id>/read_masks")
    def read_mask_file(session_id: str) -> Response:
        session = sessions.use(session_id)
        shape = VideoShape(session.state.num_frames, session.state.video_size)
        frame = request.args.get("frame", "0")
        if not frame.isdecimal():
            raise BadInputError(f"frame is {shortened(frame)}; expected the number of a frame")
        found = read_masks(request.get_data(), shape, int(frame))
        objects = [
            {
                "name": name,
                "label": label,
                "masks": [{"frame": frame, "mask": dict(mask)} for frame, mask in masks.items()],
            }
            for name, label, masks in found
        ]
        return jsonify({"objects": objects})

    @routes.post("/api/sessions/<session_id>/encode")
    def encode_frames(session_id: str) -> Response:
        session, folder = sessions.use(session_id), service.library.incoming
        with (
            NamedTemporaryFile(dir=folder, prefix="frames-", suffix=".part") as frames,
            service.jobs.run(request.args.get("job")) as report,
        ):
            shutil.copyfileobj(request.stream, frames)
            frames.flush()
            data = _export_data(session)._replace(report=report)
            with exports.export_slot():
                path = encode(Path(frames.name), data, folder)
        return exports.send_once(path, "video/mp4")

    return routes


def _requested_clean() -> float:
    """Returns the largest share of the frame's area of the specks and holes that the request removes."""
    text = request.args.get("clean", "0")
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise BadInputError(f"clean is {shortened(text)}; expected a share of the frame's area, 0 to 1")


def _numbering(made: Transcoded | None) -> dict[str, int] | None:
    """Returns how the frames' numbers differ from the source's; None if they do not."""
    if made is None or not (made.repeated or made.dropped):
        return None
    return {"repeated": made.repeated, "dropped": made.dropped}


def _json_object() -> dict[str, Any]:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise BadInputError("expected a JSON object")
    return body


def _frame_and_object(body: dict[str, Any]) -> tuple[int, int]:
    frame, object_id = body.get("frameIndex"), body.get("objectId")
    if type(frame) is not int or type(object_id) is not int:
        raise BadInputError(f"frameIndex is {shortened(frame)}, objectId {shortened(object_id)}; expected two integers")
    return frame, object_id


def _clicks(body: dict[str, Any]) -> Clicks:
    try:
        points = [[float(x), float(y)] for x, y in body["points"]]
        labels = [int(label) for label in body["labels"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInputError('expected clicks such as {"points": [[0.3, 0.4]], "labels": [1]}') from error
    return Clicks(points, labels)


def _export_data(session: Session) -> ExportData:
    state = session.state
    copied = dict(session.masks)  # the model's thread may change them
    masks = {frame: copied[frame] for frame in sorted(copied)}
    quality = request.args.get("quality", "high")
    if quality not in QUALITIES:
        raise BadInputError(f"there is no quality {shortened(quality)}; expected one of {', '.join(QUALITIES)}")
    data = ExportData(session.file, state.num_frames, state.video_size, state.frames.rate, masks)
    return data._replace(quality=QUALITIES[quality])
