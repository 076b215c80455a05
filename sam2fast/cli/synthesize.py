"""``sam2fast synthesize``: synthetic videos with exact masks."""

import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path

import click

from sam2fast import __version__
from sam2fast.cli.command_files import OutputFolder
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import DTYPES, PATH, checked_device, out_option
from sam2fast.cli.reporting import emit, output_options, progress_bar, say
from sam2fast.cli.sources import images_in
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.downloads.digests import digest_of
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.made_from import files_below


@click.command()
@click.option("--clips", type=click.IntRange(1), default=100, help="Number of clips.")
@click.option("--frames", type=click.IntRange(1), default=24, help="Frames of a clip.")
@click.option("--size", type=click.IntRange(32), default=512, help="Side of the frames, in pixels.")
@click.option("--objects", type=click.IntRange(1, 200), default=5, help="Maximum number in a clip.")
@click.option("--motion", type=click.FloatRange(0), default=1.0, help="Speed; 0 for no motion.")
@click.option(
    "--media",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Images to use: backgrounds/ (photographs) and cutouts/ (PNG with alpha), or images/ and masks/ (ids). "
    "[default: random backgrounds and shapes] Repeatable.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Equal seeds give equal files.")
@click.option(
    "--teacher",
    type=PATH,
    metavar="CHECKPOINT",
    help="Weights of a model that first cuts objects out of the photographs in --images, into OUT/media.",
)
@click.option("--images", type=PATH, metavar="DIR", help="Photographs for the teacher.")
@click.option("--model", metavar="NAME", help="The teacher's configuration.  [default: detected from its weights]")
@click.option("--device", default="auto", callback=checked_device, help="The teacher's: auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", help="The teacher's.")
@out_option("out/synthetic")
@output_options(has_bar=True)
def synthesize(
    clips: int,
    frames: int,
    size: int,
    objects: int,
    motion: float,
    media: Sequence[Path],
    seed: int,
    teacher: Path | None,
    images: Path | None,
    model: str | None,
    device: str,
    dtype: str,
    out: Path,
) -> None:
    """Make synthetic videos of moving objects, with the mask of every labelled object in every frame.

    Written in the layout of DAVIS: JPEGImages/CLIP/00000.jpg, Annotations/CLIP/00000.png (a palette image of ids from
    1), ImageSets/all.txt. All labelled objects are visible in the first frame; later they may be occluded,
    or leave and return.

    The same command again continues an interrupted run, with more --clips also a complete one.
    """
    if (teacher is None) != (images is None):
        raise click.UsageError("--teacher and --images go together")
    for folder in media:
        if not folder.is_dir():
            raise UserError(f"no media folder {str(folder)!r}")
    if images is not None and not images.is_dir():
        raise UserError(f"no folder {str(images)!r} of photographs for the teacher")
    left_out = LeftOut()
    photographs = [] if images is None else images_in(images, out, left_out)
    choice = None if teacher is None else choose_model(model, teacher)
    options = {"frames": frames, "size": size, "objects": objects, "motion": motion, "seed": seed}
    made_from = {"version": __version__, "options": options}
    made_from["media_path"] = [os.path.realpath(folder) for folder in media]
    made_from["media_content"] = [digest_of(folder, files_below(folder)) for folder in media]
    if choice is not None and images is not None:
        made_from |= choice.made_from(dtype=dtype, **options)
        made_from["photograph_path"] = os.path.realpath(images)
        made_from["photograph_content"] = digest_of(images, photographs)
    output = OutputFolder(out / "synthesize.json", made_from)
    output.write()

    folders = list(media)
    if choice is not None:
        left = [path for path in photographs if output.counts.get(path.name) != _count_cutouts(path, out / "media")]
        if left:
            import torch

            from sam2fast.cli.segmenter import Segmenter
            from sam2fast.training.data.synthetic.pseudo_labels import write_cutouts

            predictor = Segmenter(choice, device, dtype).predictor
            bar_of_images = progress_bar("cut-outs", len(left), "images")
            with as_user_error(OSError, torch.OutOfMemoryError), bar_of_images as bar:
                for path, count in write_cutouts(left, predictor, out / "media"):
                    bar.update()
                    if isinstance(count, Exception):
                        left_out.add("photograph", "it cannot be read", path)
                        continue
                    bar.set_postfix(last=count)
                    output.write(files={path.name: count})
            if not output.counts:
                raise UserError(f"no photograph can be used; left out: {left_out}")
        folders.append(out / "media")

    import numpy as np

    from sam2fast.datasets.davis import DavisWriter
    from sam2fast.training.data.synthetic import MediaError, SyntheticClips

    def count_left_out(first: Path, error: Exception, number: int) -> None:
        left_out.add("image", str(error) if isinstance(error, MediaError) else "it cannot be read", first, number)

    with as_user_error(ValueError):
        source = SyntheticClips(size, frames, objects, folders, clips, motion, seed=seed, on_left_out=count_left_out)
    target = DavisWriter(out)
    names = [f"{index:05d}" for index in range(clips)]
    remove_leftovers(out / name for name in names)
    with progress_bar("clips", clips, "clips") as bar:
        for index, name in enumerate(names):
            if not target.has(name, frames):
                clip = source.sample(index, np.random.default_rng([seed, index]))
                target.write(name, clip.frames, clip.masks)
            bar.update()
    target.list_clips(names)
    emit({"out": str(out), "clips": clips, "frames": frames})
    say(f"{clips} clips of {frames} frames in {out}")
    left_out.report()


def _count_cutouts(photograph: Path, media: Path) -> int:
    return len(list((media / "cutouts").glob(f"{escape(photograph.name.replace('.', '_'))}_[0-9]*.png")))
