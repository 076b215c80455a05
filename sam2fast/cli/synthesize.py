"""``sam2fast synthesize``: makes synthetic videos with exact masks."""

import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

import click

from sam2fast import __version__
from sam2fast.cli.command import command, option, shared
from sam2fast.cli.command_files import OutputFolder
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import DTYPES, checked_device, out_option
from sam2fast.cli.reporting import emit, output_options, progress_bar, say
from sam2fast.cli.sources import images_in
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.downloads.digests import digest_of
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.made_from import files_below


class SynthesizeCommand:
    """Make synthetic videos of moving objects, with the mask of every labelled object in every frame.

    The layout is DAVIS: JPEGImages/CLIP/00000.jpg, Annotations/CLIP/00000.png (a palette image of ids from
    1), ImageSets/all.txt. All labelled objects are visible in the first frame. In later frames, objects may be
    occluded, or leave and return.

    The same command continues an interrupted run. With more --clips, the command extends a complete run.
    """

    clips: int = option(type=click.IntRange(1), default=100, help="Number of clips.")
    frames: int = option(type=click.IntRange(1), default=24, help="Number of frames per clip.")
    size: int = option(type=click.IntRange(32), default=512, help="Side of the frames, in pixels.")
    objects: int = option(type=click.IntRange(1, 200), default=5, help="Maximum number of objects per clip.")
    motion: float = option(type=click.FloatRange(0), default=1.0, help="Speed of the motion; 0 for none.")
    media: Sequence[Path] = option(
        metavar="DIR",
        help="Images to use: backgrounds/ (photographs) and cutouts/ (PNG with alpha), or images/ and masks/ (ids). "
        "[default: random backgrounds and shapes] Repeatable.",
    )
    seed: int = option(type=click.IntRange(0), default=0, help="Equal seeds give equal files.")
    teacher: Path | None = option(
        metavar="CHECKPOINT",
        help="Weights of a model that first cuts objects out of the photographs in --images, into OUT/media.",
    )
    images: Path | None = option(metavar="DIR", help="Photographs for the teacher.")
    model: str | None = option(
        metavar="NAME", help="The teacher's configuration.  [default: detected from the teacher's weights]"
    )
    device: str = option(
        default="auto", callback=checked_device, help="Teacher's device: auto, cpu, cuda, cuda:1, mps."
    )
    dtype: str = option(type=click.Choice(DTYPES), default="float32", help="Dtype of the teacher.")
    out: Path = shared(out_option("out/synthetic"))

    def run(self) -> None:
        if (self.teacher is None) != (self.images is None):
            raise click.UsageError("--teacher and --images go together")
        for folder in self.media:
            if not folder.is_dir():
                raise UserError(f"no media folder {str(folder)!r}")
        if self.images is not None and not self.images.is_dir():
            raise UserError(f"no folder {str(self.images)!r} of photographs for the teacher")
        left_out = LeftOut()
        photographs = [] if self.images is None else images_in(self.images, self.out, left_out)
        choice = None if self.teacher is None else choose_model(self.model, self.teacher)
        options: dict[str, Any] = {"frames": self.frames, "size": self.size, "objects": self.objects}
        options |= {"motion": self.motion, "seed": self.seed}
        made_from = {"version": __version__, "options": options}
        made_from["media_path"] = [os.path.realpath(folder) for folder in self.media]
        made_from["media_content"] = [digest_of(folder, files_below(folder)) for folder in self.media]
        if choice is not None and self.images is not None:
            made_from |= choice.made_from(dtype=self.dtype, **options)
            made_from["photograph_path"] = os.path.realpath(self.images)
            made_from["photograph_content"] = digest_of(self.images, photographs)
        output = OutputFolder(self.out / "synthesize.json", made_from)
        output.write()

        folders, media = list(self.media), self.out / "media"
        if choice is not None:
            left = [path for path in photographs if output.counts.get(path.name) != _count_cutouts(path, media)]
            if left:
                import torch

                from sam2fast.cli.segmenter import Segmenter
                from sam2fast.training.data.synthetic.pseudo_labels import write_cutouts

                predictor = Segmenter(choice, self.device, self.dtype).predictor
                bar_of_images = progress_bar("cut-outs", len(left), "images")
                with as_user_error(OSError, torch.OutOfMemoryError), bar_of_images as bar:
                    for path, count in write_cutouts(left, predictor, media):
                        bar.update()
                        if isinstance(count, Exception):
                            left_out.add("photograph", "it cannot be read", path)
                            continue
                        bar.set_postfix(last=count)
                        output.write(files={path.name: count})
                if not output.counts:
                    raise UserError(f"no photograph can be used; left out: {left_out}")
            folders.append(media)

        import numpy as np

        from sam2fast.datasets.davis import DavisWriter
        from sam2fast.training.data.synthetic import MediaError, SyntheticClips

        def count_left_out(first: Path, error: Exception, number: int) -> None:
            left_out.add("image", str(error) if isinstance(error, MediaError) else "it cannot be read", first, number)

        with as_user_error(ValueError):
            clips = self.size, self.frames, self.objects, folders, self.clips, self.motion
            source = SyntheticClips(*clips, seed=self.seed, on_left_out=count_left_out)
        target = DavisWriter(self.out)
        names = [f"{index:05d}" for index in range(self.clips)]
        remove_leftovers(self.out / name for name in names)
        with progress_bar("clips", self.clips, "clips") as bar:
            for index, name in enumerate(names):
                if not target.has(name, self.frames):
                    clip = source.sample(index, np.random.default_rng([self.seed, index]))
                    target.write(name, clip.frames, clip.masks)
                bar.update()
        target.list_clips(names)
        emit({"out": str(self.out), "clips": self.clips, "frames": self.frames})
        say(f"{self.clips} clips of {self.frames} frames in {self.out}")
        left_out.report()


synthesize = command(SynthesizeCommand, output_options(has_bar=True))


def _count_cutouts(photograph: Path, media: Path) -> int:
    return len(list((media / "cutouts").glob(f"{escape(photograph.name.replace('.', '_'))}_[0-9]*.png")))
