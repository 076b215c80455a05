"""Routes of photographs: files of the masks of one or many, and masks of everything in one."""

import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import uuid4

from flask import Blueprint, Response, current_app, jsonify, request
from torch import Tensor

from sam2fast.demo.server.alpha import HARD, Edges, read_edges, surroundings
from sam2fast.demo.server.clean_masks import clean_masks
from sam2fast.demo.server.demo_errors import BadInputError, NoSessionError, NotFoundError, shortened
from sam2fast.demo.server.export_data import ExportData, safe_name
from sam2fast.demo.server.exports import PNG_COMPRESSION, encoded, export_slot, requested_tolerance, send_once
from sam2fast.demo.server.jobs import ignore_progress
from sam2fast.demo.server.library import POSTER_QUALITY, Library
from sam2fast.demo.server.model_calls import LabelledMask
from sam2fast.demo.server.page_masks import PageMasks, read_classes, read_mask, read_page_masks
from sam2fast.demo.server.photos import is_photo, poster_of, read_cutout, thumbnail_of
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.source_masks import Logits, match_logits
from sam2fast.demo.server.uploads import LIMITS, IncomingFile
from sam2fast.io.image_names import distinct_stems
from sam2fast.io.rle import encode_rle
from sam2fast.results.image_writers import AnnotatedImage, write_masks
from sam2fast.results.label_files import yolo_data

FORMATS = ("coco", "yolo", "yolo-seg", "labelme", "label-studio", "png", "geojson", "cutout")
SPLIT_FORMATS = ("coco", "yolo", "yolo-seg")
MAX_PHOTOS = 500
MAX_REFERENCES = 8
NO_CLASS = "object"
CROP_MARGIN = 8  # pixels around the objects
SIMILAR = '{"path": "uploads/...", "references": [{"path": "uploads/...", "mask": {"size": [h, w], "counts": "..."}}]}'
EXAMPLE = '{"photographs": [{"path": "uploads/...", "name": "cat.jpg", "objects": [...], "frames": [...]}]}'


class _Photo(NamedTuple):
    """A photograph with its masks.

    ``name`` is the client's name. Equal names are numbered. ``stem`` is the name without suffix, or the whole name if
    stems would be equal.
    """

    path: str
    file: Path
    name: str
    stem: str
    size: tuple[int, int]
    found: PageMasks


class CutoutForm(NamedTuple):
    """How cut-outs are made.

    Attributes:
        edges: their outlines.
        crops: whether images end near the objects.
        logits_of: finds what the masks of a photograph may have been made of, by its path.
    """

    edges: Edges
    crops: bool
    logits_of: Callable[[str], Logits]


class Split(NamedTuple):
    """A division into training and validation: the percentage of validation, and the seed that chooses it."""

    percent: int
    seed: int

    def validation(self, names: Collection[str]) -> set[str]:
        """Returns the names for validation: one at least, and all but one at most."""
        count = min(max(1, (len(names) * self.percent + 50) // 100), len(names) - 1)
        return set(sorted(names, key=lambda name: sha256(f"{self.seed} {name}".encode()).digest())[:count])


def make_photo_routes(service: DemoService) -> Blueprint:
    """The routes; they raise :class:`~sam2fast.demo.server.demo_errors.DemoError`."""
    routes = Blueprint("photographs", __name__)

    def logits_of(path: str) -> Logits:
        """The logits of all open sessions on a photograph: a mask that equals none of them has another origin."""
        found: dict[int, list[Tensor]] = {}
        for session in service.sessions.opened():
            if session.path == path:
                with suppress(NoSessionError):  # it was closed just now
                    for i, logits in service.model.call(service.calls.mask_logits, session).get(0, {}).items():
                        found.setdefault(i, []).extend(logits)
        return {0: found}

    @routes.post("/api/photographs/export")
    def export_photos() -> Response:
        body, kind = request.get_json(force=True, silent=True), request.args.get("format", "")
        form = CutoutForm(read_edges(request.args), request.args.get("crop") == "true", logits_of)
        path = export(body, kind, service.library, requested_tolerance(), form, _split(kind))
        return send_once(path, "application/zip")

    @routes.post("/api/photographs/thumbnail")
    def thumbnail() -> Response:
        content = BytesIO()
        with closing(IncomingFile(current_app.extensions[LIMITS])) as file:
            shutil.copyfileobj(request.stream, file)
            with export_slot():
                thumbnail_of(file.path).save(content, "JPEG", quality=POSTER_QUALITY)
        return Response(content.getvalue(), content_type="image/jpeg")

    @routes.post("/api/photographs/prepare")
    def prepare() -> Response:
        body = request.get_json(force=True, silent=True)
        if not isinstance(body, Mapping):
            raise BadInputError("expected a JSON object")
        path, file = _photograph(body, service.library)
        service.model.call(lambda: service.calls.prepare(path, file))  # of the model at that time
        return jsonify({})

    @routes.post("/api/photographs/similar")
    def similar() -> Response:
        body = request.get_json(force=True, silent=True)
        entries = body.get("references") if isinstance(body, Mapping) else None
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_REFERENCES:
            raise BadInputError(f"expected at most {MAX_REFERENCES} references, and a photograph, such as {SIMILAR}")
        _, file = _photograph(body, service.library)
        labelled = [_labelled(entry, service.library) for entry in entries]
        with service.jobs.run(request.args.get("job")) as report:
            found = service.model.call(lambda: service.calls.find_similar(labelled, file, report))
        masks = [{**encode_rle(mask), "iou": iou, "likeness": likeness} for mask, likeness, iou in found]
        return jsonify({"masks": masks})

    @routes.post("/api/sessions/<session_id>/everything")
    def everything(session_id: str) -> Response:
        session = service.sessions.use(session_id)
        if not is_photo(session.file):
            raise BadInputError("everything is found in photographs only; this session is on a video")
        with service.jobs.run(request.args.get("job")) as report:
            found = service.call(service.calls.everything, session_id, report)
        return jsonify({"masks": [{**mask.rle, "iou": mask.iou} for mask in found]})

    return routes


def _photograph(entry: Any, library: Library) -> tuple[str, Path]:
    """Returns the path and the file of a photograph that a request names."""
    path = str(entry.get("path")) if isinstance(entry, Mapping) else ""
    file = library.find(path)
    if not is_photo(file):
        raise BadInputError(f"{shortened(path)} is not a photograph; only photographs are accepted")
    return path, file


def _labelled(entry: Any, library: Library) -> LabelledMask:
    _, file = _photograph(entry, library)
    mask = read_mask(entry.get("mask"), poster_of(file)[1])
    if not mask.any():
        raise BadInputError("the mask of a reference is empty; expected at least one pixel inside")
    return LabelledMask(file, encode_rle(mask))


def _split(kind: str) -> Split | None:
    percent, seed = (request.args.get(name, "0") for name in ("validation", "seed"))
    if not (re.fullmatch("[0-9]{1,2}", percent) and re.fullmatch("[0-9]{1,9}", seed)):
        raise BadInputError(
            f"validation is {shortened(percent)}, seed {shortened(seed)}; expected a percentage below 100, and a number"
        )
    if int(percent) == 0:
        return None
    if kind not in SPLIT_FORMATS:
        raise BadInputError(f"{shortened(kind)} is not split; expected one of {', '.join(SPLIT_FORMATS)}")
    return Split(int(percent), int(seed))


def export(
    body: Any, kind: str, library: Library, tolerance: float, form: CutoutForm, split: Split | None = None
) -> Path:
    """Makes a ZIP of the masks of photographs, which have at least one; the caller deletes it.

    Args:
        body: as in ``EXAMPLE``, each photograph with masks as for the export of a session; and ``classes``, the page's
            list of names, whose order numbers them.
        kind: one of ``FORMATS``: a format of :mod:`sam2fast.results`, or cut-outs.
        tolerance: of polygons: their largest distance from the masks' outlines, in pixels.
        form: of cut-outs.
        split: of one of ``SPLIT_FORMATS``: the ZIP has a data set in ``train`` and one in ``val``.

    Raises:
        BadInputError: If there is no such format, the body has another form, or a form was chosen for other files than
            cut-outs.
        NotFoundError: If the library does not have a photograph, or there are no masks.
        BusyError: If too many exports are running.
    """
    if kind not in FORMATS:
        raise BadInputError(f"there is no format {shortened(kind)}; expected one of {', '.join(FORMATS)}")
    if kind != "cutout" and (form.crops or form.edges != HARD):
        raise BadInputError(f"{kind} has neither soft edges nor a crop; cutout has")
    photos = [photo for photo in _read(body, library) if photo.found.masks.get(0)]
    if not photos:
        raise NotFoundError("there are no masks yet: click on something first")
    path = library.incoming / f"{uuid4()}.zip"
    with export_slot(), TemporaryDirectory(dir=library.incoming, prefix="photographs-") as temporary:
        images, written = Path(temporary) / "images", Path(temporary) / "written"
        # Label Studio's addresses name the folder below its document root.
        target = written / kind if kind == "label-studio" else written
        images.mkdir()
        target.mkdir(parents=True)
        if kind == "cutout":
            _write_cutouts(target, photos, form)
        else:
            cleaned = [photo._replace(found=_cleaned(photo.found)) for photo in photos]
            listed = dict.fromkeys(read_classes(body))
            found = dict.fromkeys(label for photo in photos for label in _labels(photo))
            classes = [*(listed | found)]
            parts = _parts(cleaned, split)
            for part, chosen in parts.items():
                write_masks(target / part, _annotated(chosen, classes, images, kind), kind, tolerance)
                if split and kind != "coco":
                    (target / part / "data.yaml").unlink()
                    text = yolo_data(classes, "train/images", "val/images" if "val" in parts else "train/images")
                    (target / "data.yaml").write_text(text, "utf-8")
        shutil.rmtree(images)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(written.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(written).as_posix())
    return path


def _cleaned(found: PageMasks) -> PageMasks:
    return found._replace(masks=clean_masks(found.masks, found.limits, ignore_progress))


def _read(body: Any, library: Library) -> list[_Photo]:
    entries = body.get("photographs") if isinstance(body, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise BadInputError(f"expected photographs such as {EXAMPLE}")
    if len(entries) > MAX_PHOTOS:
        raise BadInputError(f"there are {len(entries)} photographs; expected at most {MAX_PHOTOS}")
    photos, names = [], set[str]()
    for entry in entries:
        try:
            file = library.find(str(entry.get("path")))
        except NotFoundError as error:
            missing = shortened(entry.get("name") or entry.get("path"))
            raise NotFoundError(f"the server does not have {missing} any more; add this photograph again") from error
        if not is_photo(file):
            raise BadInputError(f"{shortened(entry.get('path'))} is not a photograph")
        _, size = poster_of(file)
        # The last part of the client's name, without characters that file systems refuse.
        last = re.split(r"[/\\]", str(entry.get("name") or file.name))[-1]
        name = safe_name(last) or "photograph"
        name = _unique(name, names)
        photos.append(_Photo(str(entry["path"]), file, name, name, size, read_page_masks(entry, 1, size)))
    stems = distinct_stems([photo.name for photo in photos])
    return [photo._replace(stem=stem) for photo, stem in zip(photos, stems, strict=True)]


def _unique(name: str, taken: set[str]) -> str:
    """Returns the name, with a number if another photograph has the same name, also in other capitals."""
    path, found, number = Path(name), name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{path.stem}_{number}{path.suffix}"
    taken.add(found.casefold())
    return found


def _parts(photos: Sequence[_Photo], split: Split | None) -> dict[str, list[_Photo]]:
    """Returns the photographs by their folder of the ZIP, which has no empty ones."""
    if split is None:
        return {"": [*photos]}
    # A file's name is its content's hash: the same photograph under two names is in one part.
    chosen = split.validation({photo.file.name for photo in photos})
    parts = {
        part: [photo for photo in photos if (photo.file.name in chosen) == (part == "val")] for part in ("train", "val")
    }
    return {part: found for part, found in parts.items() if found}


def _labels(photo: _Photo) -> list[str]:
    return [photo.found.labels.get(i, NO_CLASS) for i in photo.found.masks[0]]


def _annotated(photos: Iterable[_Photo], classes: Sequence[str], links: Path, kind: str) -> Iterator[AnnotatedImage]:
    """The photographs for ``write_masks``, under the names that they have at the client."""
    for photo in photos:
        masks = photo.found.masks[0]
        link = links / f"{photo.stem}{photo.file.suffix}"
        link.symlink_to(photo.file)
        # COCO's file has names only.
        image = Path(photo.name) if kind == "coco" else link
        rles = [mask.rle for mask in masks.values()]
        yield AnnotatedImage(image, photo.stem, photo.size, rles, _labels(photo), [1.0] * len(rles), classes)


def _write_cutouts(folder: Path, photos: Iterable[_Photo], form: CutoutForm) -> None:
    """Writes RGBA images: the objects with the photograph's own alpha, all else transparent black."""
    for photo in photos:
        masks = photo.found.masks
        data = ExportData(photo.file, 1, photo.size, None, masks, edges=form.edges)
        if form.edges.kind == "matte":
            data = data._replace(logits=match_logits(masks, form.logits_of(photo.path), ignore_progress))
        data = data.cleaned(photo.found.limits)
        cutout = read_cutout(photo.file, partial(data.alpha, 0))
        if form.crops and cutout[..., 3].any():
            cutout = cutout[surroundings(cutout[..., 3] > 0, CROP_MARGIN)]
        (folder / f"{photo.stem}.png").write_bytes(encoded(cutout, "PNG", compress_level=PNG_COMPRESSION))
