"""``sam2fast download``: checkpoints from Meta, a mirror or the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

import click

from sam2fast._official_names import SAM2, SAM3_NAMES
from sam2fast.cli.options import PATH
from sam2fast.cli.reporting import emit, output_options, reporting, say
from sam2fast.cli.terminal import aligned, report_interrupt
from sam2fast.cli.user_errors import UserError, format_error
from sam2fast.downloads import catalog, get_checkpoint, get_repository, is_sha256
from sam2fast.downloads.catalog import (
    MIRROR_VARIABLE,
    is_repository,
    published,
    published_models,
    short_name,
    simplest_name,
)
from sam2fast.utils.embedded import EMBEDDED, find_embedded


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option(
    "--list", "list_all", is_flag=True, help="Show names and sizes, and which files are on this machine; no network."
)
@click.option(
    "--to",
    type=PATH,
    metavar="DIR",
    help="Folder for the files.  [default: $SAM2FAST_CACHE, where all commands find them]",
)
@click.option(
    "--mirror", metavar="URL", help=f"HTTP folder with the files, tried first.  [default: ${MIRROR_VARIABLE}]"
)
@click.option("--sha256", metavar="HEX", help="The expected hash of the file.")
@click.option("--overwrite", is_flag=True, help="Replace existing files: download them again.")
@output_options()
@click.pass_context
def download(
    ctx: click.Context,
    names: Sequence[str],
    list_all: bool,
    to: Path | None,
    mirror: str | None,
    sha256: str | None,
    overwrite: bool,
) -> None:
    """Download checkpoints, and print where they are.

    NAME is tiny, small, base_plus or large for SAM 2.1; another official name, such as sam2_hiera_t or
    facebook/sam2-hiera-large; all for all of these; edgetam, efficienttam_s, medsam2 or another relative of SAM 2 that
    --list shows; or the id of any other model on the Hugging Face hub, of which the folder is printed: these need
    huggingface_hub (pip install "sam2fast[hub]").

    Existing files are not downloaded again. An interrupted download continues where it stopped.
    """
    if list_all:
        _list()
        return
    wanted = _expand(names)
    _check(wanted, to, mirror, sha256, overwrite)
    failed = False
    with report_interrupt(ctx):
        for name in wanted:
            try:
                quiet = reporting().quiet
                if embedded := find_embedded(short_name(name)):
                    path = embedded.weights
                elif published(name) is None:
                    path = get_repository(name, quiet=quiet)
                else:
                    path = get_checkpoint(
                        name, folder=to, mirror=mirror, sha256=sha256, overwrite=overwrite, quiet=quiet
                    )
                emit({"name": name, "path": str(path)})
                if not reporting().jsonl:
                    click.echo(path)
            except (OSError, ImportError) as error:
                failed = True
                emit({"input": name, "error": format_error(error)})
                UserError(format_error(error)).show()
    if failed:
        ctx.exit(1)


def _expand(names: Sequence[str]) -> list[str]:
    """The names, with ``all`` expanded and without duplicates, in the given order."""
    wanted: dict[str, None] = {}
    for name in names:
        for one in SAM2 if name == "all" else (name,):
            official = published(one)
            wanted[official.hub_id if official else one] = None
    return list(wanted)


def _check(wanted: Sequence[str], to: Path | None, mirror: str | None, sha256: str | None, overwrite: bool) -> None:
    if not wanted:
        raise click.UsageError("give at least one NAME; sam2fast download --list shows them")
    known = [name for name in wanted if published(name) or find_embedded(short_name(name)) or name in SAM3_NAMES]
    others = [name for name in wanted if name not in known]
    for name in others:
        if not is_repository(name):
            raise click.BadParameter(
                f"no model {name!r}; sam2fast download --list shows the names", param_hint="'NAME'"
            )
    if others and (overwrite or not (to is mirror is sha256 is None)):
        raise click.UsageError(f"--to, --mirror, --sha256 and --overwrite are for official models; {others[0]} is none")
    if sha256 is not None and (len(wanted) > 1 or not is_sha256(sha256.lower())):
        raise click.UsageError("--sha256 takes 64 hexadecimal digits and goes with one NAME")


def _list() -> None:
    rows = [("name", "file", "MB", "found")]
    for embedded in EMBEDDED.values():
        name = embedded.model_id.rpartition("/")[2]
        rows.append((name, "in the package", _megabytes(embedded.bytes), str(embedded.weights.parent)))
        emit({"name": name, "path": str(embedded.weights)})
    for model in dict.fromkeys(published_models().values()):
        found = catalog.find_local(model)
        size = _megabytes(model.release.bytes if found is None else found.stat().st_size)
        rows.append((simplest_name(model), model.release.checkpoint, size, "-" if found is None else str(found)))
        emit({"name": simplest_name(model), "path": None if found is None else str(found)})
    for line in aligned(rows, numbers=(2,)):
        say(line)


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"
