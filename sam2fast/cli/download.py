"""``sam2fast download``: downloads checkpoints from Meta, a mirror or the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

import click

from sam2fast._official_names import SAM2, SAM3_NAMES
from sam2fast.cli.command import argument, command, option
from sam2fast.cli.reporting import emit, output_options, reporting, say_table
from sam2fast.cli.terminal import echo, report_interrupt
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


class DownloadCommand:
    """Download checkpoints, and print where they are.

    NAME is tiny, small, base_plus or large for SAM 2.1, or another official name, such as sam2_hiera_t or
    facebook/sam2-hiera-large. The name all means all official models. edgetam, efficienttam_s, medsam2 and other
    relatives of SAM 2 are names that --list shows. NAME may also be the id of any other model on the Hugging Face hub.
    An id needs huggingface_hub (pip install "sam2fast[hub]"), and prints the model's folder.

    Existing files are not downloaded again. An interrupted download continues where it stopped.
    """

    names: Sequence[str] = argument(nargs=-1, metavar="NAME...")
    list_all: bool = option("--list", help="List names, sizes and the files on this machine, without network access.")
    to: Path | None = option(
        metavar="DIR", help="Folder for the files.  [default: $SAM2FAST_CACHE, where all commands search]"
    )
    mirror: str | None = option(
        metavar="URL", help=f"HTTP folder with the files, tried first.  [default: ${MIRROR_VARIABLE}]"
    )
    sha256: str | None = option(metavar="HEX", help="The expected SHA-256 of the file.")
    overwrite: bool = option(help="Replace existing files: download them again.")

    def run(self) -> None:
        if self.list_all:
            _list()
            return
        wanted, failed = self._wanted(), False
        with report_interrupt(click.get_current_context()):
            for name in wanted:
                try:
                    quiet = reporting().quiet
                    if embedded := find_embedded(short_name(name)):
                        path = embedded.weights
                    elif published(name) is None:
                        path = get_repository(name, quiet=quiet)
                    else:
                        options = {"mirror": self.mirror, "sha256": self.sha256}
                        path = get_checkpoint(name, folder=self.to, **options, overwrite=self.overwrite, quiet=quiet)
                    emit({"name": name, "path": str(path)})
                    if not reporting().jsonl:
                        echo(path)
                except (OSError, ImportError) as error:
                    failed = True
                    emit({"input": name, "error": format_error(error)})
                    UserError(format_error(error)).show()
        if failed:
            click.get_current_context().exit(1)

    def _wanted(self) -> list[str]:
        """Returns the names in order, with ``all`` expanded and without duplicates. Checks the options."""
        names = [one for name in self.names for one in (SAM2 if name == "all" else (name,))]
        wanted = list(dict.fromkeys(model.hub_id if (model := published(name)) else name for name in names))
        if not wanted:
            raise click.UsageError("give at least one NAME; sam2fast download --list shows them")
        known = [name for name in wanted if published(name) or find_embedded(short_name(name)) or name in SAM3_NAMES]
        others = [name for name in wanted if name not in known]
        for name in others:
            if not is_repository(name):
                raise click.BadParameter(
                    f"no model {name!r}; sam2fast download --list shows the names", param_hint="'NAME'"
                )
        if others and (self.overwrite or not (self.to is self.mirror is self.sha256 is None)):
            why = f"{others[0]} is not official"
            raise click.UsageError(f"--to, --mirror, --sha256 and --overwrite are for official models; {why}")
        if self.sha256 is not None and (len(wanted) > 1 or not is_sha256(self.sha256.lower())):
            raise click.UsageError("--sha256 takes 64 hexadecimal digits, for exactly one NAME")
        return wanted


download = command(DownloadCommand, output_options())


def _list() -> None:
    rows = [("name", "file", "MB", "found")]
    for embedded in EMBEDDED.values():
        name = embedded.model_id.rpartition("/")[2]
        rows.append((name, "in the package", _megabytes(embedded.bytes), str(embedded.weights.parent)))
        emit({"name": name, "path": str(embedded.weights)})
    for model in dict.fromkeys(published_models().values()):
        path = catalog.find_local(model)
        size = _megabytes(model.release.bytes if path is None else path.stat().st_size)
        rows.append((simplest_name(model), model.release.checkpoint, size, "-" if path is None else str(path)))
        emit({"name": simplest_name(model), "path": None if path is None else str(path)})
    say_table(rows, (2,))


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"
