"""The layout of DAVIS and MOSE: ``JPEGImages/<video>/<frame>.jpg``, ``Annotations/<video>/<frame>.png``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.facts import Facts, facts_file, read_facts
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import Settings, Written, folders_in, mask_files, refuse_unknown
from sam2fast.datasets.mask_pictures import label_png, palette_of
from sam2fast.datasets.palette_masks import indices_of, masks_in, objects_in, paint, read_picture
from sam2fast.datasets.staging import Stage
from sam2fast.picture_files import open_picture
from sam2fast.training.data.files import FrameKey
from sam2fast.training.data.synthetic.davis import palette

MASKS, FRAMES = "Annotations", "JPEGImages"
LEVELS = ("480p", "Full-Resolution", "1080p")  # between these folders and the videos, in DAVIS's own downloads


@dataclass(frozen=True)
class Davis:
    """See :class:`~sam2fast.datasets.layout.Layout`."""

    root: Path
    settings: Settings = field(default_factory=Settings)
    name: ClassVar[str] = "davis"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 1
    keeps_films: ClassVar[bool] = False

    def videos(self) -> list[str]:
        return [path.name for path in folders_in(self._below(MASKS), f"{MASKS}/<video>/<frame>.png")]

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find([self._below(FRAMES) / name])

    def has(self, name: str) -> bool:
        return (self.root / MASKS / name).is_dir()

    def open(self, name: str) -> VideoAnnotations:
        folder = self._below(MASKS) / name
        files = mask_files(folder)
        facts = read_facts(self.root, name)
        if facts is not None:
            return self._with_facts(name, folder, files, facts)
        if not files:
            raise DatasetError(f"{folder} has no masks: expected <frame>.png in it")
        labels = read_picture(next(iter(files.values())))
        height, width = labels.shape
        objects = self._objects(name, files, (height, width))
        return self._video(
            name, folder, files, Facts((height, width), _stems(files), objects, self._facts(name, files))
        )

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        indices = indices_of(video.objects, video.name)
        colours = bytes.fromhex(video.facts.get("palette", ""))
        colours += palette().tobytes()[len(colours) :]  # an index without a colour could not be stored
        masks_place, facts_place = f"{MASKS}/{video.name}", facts_file(Path(), video.name).as_posix()
        folder = stage.folder(masks_place)
        unannotated: dict[str, tuple[int, ...]] = {}
        lost: dict[str, list[int]] = {}
        seen: dict[int, list[str]] = {index: [] for index in indices.values()}
        for frame, masks in video:
            missing = tuple(number for number in video.objects if number not in masks)
            if missing:
                unannotated[frame] = missing
            if missing and not masks:
                continue
            labels, losers = paint(masks, video.size, indices, self.settings.overlaps, f"{video.name}, frame {frame}")
            if losers:
                lost[frame] = losers
            (folder / f"{frame}.png").write_bytes(label_png(labels, colours))
            for index in objects_in(labels):
                seen[index].append(frame)
        numbers = {number: index for number, index in indices.items() if number != index}
        facts = Facts.of(video, unannotated=unannotated, numbers=numbers, meta=self._meta(video, seen))
        facts.write(stage.file(facts_place))
        return Written([facts_place, masks_place], lost)

    def finish(self) -> None:
        return

    def _objects(self, name: str, files: Mapping[FrameKey, Path], size: tuple[int, int]) -> tuple[int, ...]:
        """The ids in a video without facts: those in any of its pictures."""
        found: set[int] = set()
        for path in files.values():
            found.update(objects_in(read_picture(path, size)))
        return tuple(sorted(found))

    def _facts(self, name: str, files: Mapping[FrameKey, Path]) -> dict[str, Any]:
        """What else a video without facts says: its colours, if they are not DAVIS's."""
        with open_picture(next(iter(files.values()))) as picture:
            colours = palette_of(picture)
        is_usual = colours is None or palette().tobytes().startswith(colours)
        return {} if is_usual or colours is None else {"palette": colours.hex()}

    def _meta(self, video: VideoAnnotations, seen: Mapping[int, list[str]]) -> Any:
        return None

    def _below(self, folder: str) -> Path:
        levels = [self.root / folder / level for level in LEVELS]
        return next((path for path in levels if path.is_dir()), self.root / folder)

    def _with_facts(self, name: str, folder: Path, files: Mapping[FrameKey, Path], facts: Facts) -> VideoAnnotations:
        refuse_unknown(_stems(files), facts.frames, f"{folder}, frame", facts_file(self.root, name))
        return self._video(name, folder, files, facts)

    def _video(self, name: str, folder: Path, files: Mapping[FrameKey, Path], facts: Facts) -> VideoAnnotations:
        by_name = {path.stem: path for path in files.values()}
        indices = {number: facts.numbers.get(number, number) for number in facts.objects}

        def read(frame: str) -> Masks:
            missing = facts.unannotated.get(frame, ())
            annotated = {number: index for number, index in indices.items() if number not in missing}
            if missing and not annotated:
                return {}
            if frame not in by_name:
                raise DatasetError(f"{folder / frame}.png is missing")
            labels = read_picture(by_name[frame], facts.size)
            strange = sorted(set(objects_in(labels)) - set(annotated.values()))
            if strange:
                raise DatasetError(f"{by_name[frame]} has the index {strange[0]}, which is no object of the video")
            return masks_in(labels, annotated)

        return VideoAnnotations(name, facts.size, facts.frames, facts.objects, facts.facts, read)


def _stems(files: Mapping[FrameKey, Path]) -> tuple[str, ...]:
    return tuple(path.stem for path in files.values())
