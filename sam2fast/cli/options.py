"""Options that several commands share."""

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from sam2fast.cli.command import PATH, RareOption
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.user_errors import as_model_error, print_note
from sam2fast.deploy.parallel.device_list import device_list, names_several
from sam2fast.downloads.catalog import OFFLINE_VARIABLES
from sam2fast.io.images import MEGAPIXELS_VARIABLE
from sam2fast.io.made_from import recorded_dtype
from sam2fast.results.formats import WITH_POLYGONS

OFFLINE = OFFLINE_VARIABLES[0]
DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"
Command = TypeVar("Command", bound=Callable[..., Any])


def _sets_variable(name: str) -> Callable[[click.Context, click.Parameter, int | None], None]:
    """Returns an option's callback that sets an environment variable for this process and all subprocesses."""

    @contextmanager
    def variable(value: int) -> Iterator[None]:
        before = os.environ.get(name)
        os.environ[name] = str(value)
        try:
            yield
        finally:
            os.environ.pop(name)
            os.environ.update({} if before is None else {name: before})

    return lambda ctx, _option, value: ctx.with_resource(variable(int(value))) if value else None


offline_option = click.option(
    "--offline",
    cls=RareOption,
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_sets_variable(OFFLINE),
    help=f"Download nothing, as with {OFFLINE}=1.",
)
MODEL_HELP = (
    "mini or nano, models in the package; tiny, small, base_plus or large, SAM 2.1; edgetam or another name of "
    "sam2fast download --list; {}. By default, the model that fits --checkpoint, or {}."
)
USUAL_MODEL = "tiny (mini, if tiny is unavailable)"
_checkpoint_option = click.option(
    "--checkpoint",
    metavar="FILE",
    type=PATH,
    help="Weights: a .pt or .safetensors file, or a folder with one such file. By default, the official file, "
    "downloaded if it is missing.",
)
image_size_option = click.option(
    "--image-size",
    cls=RareOption,
    type=click.IntRange(1),
    metavar="S",
    help="Side of the model's input in pixels, a multiple of 32 (SAM 3: of 28).  [default: the model's]",
)


class FormatsType(click.ParamType):
    """Type of ``--format``: a list of output formats, separated by commas."""

    def __init__(self, formats: Sequence[str]) -> None:
        self.formats = formats
        self.name = ",".join(formats)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        asked = [part.strip() for part in value.split(",")]
        for name in asked:
            if name not in self.formats:
                self.fail(f"no format {name!r}; expected any of {self.name}", param, ctx)
        return tuple(name for name in self.formats if name in asked)


class NumbersType(click.ParamType):
    """Type of options with integers, separated by commas. Converts to a sorted list without duplicates."""

    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) >= self._least for part in parts):
            self.fail(f"{value!r} is not a list of integers from {self._least}, separated by commas", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


def ignore_label_option(help: str, least: int = 1) -> Callable[[Command], Command]:
    """Adds ``--ignore-label``: a repeatable list of values, as ``ignored_labels``."""
    return click.option(
        "--ignore-label",
        "ignored_labels",
        type=NumbersType(least),
        multiple=True,
        callback=lambda _ctx, _option, lists: tuple(sorted({value for values in lists for value in values})),
        help=f"{help} Repeatable.",
    )


def check_exports(formats: Sequence[str], tolerance: float) -> None:
    """Checks that the tolerance is finite, and that shapely is installed if a format has simplified polygons."""
    if not math.isfinite(tolerance):
        raise click.BadParameter(f"{tolerance} is not finite; expected pixels, such as 1", param_hint="'--tolerance'")
    if tolerance and any(name in WITH_POLYGONS for name in formats):
        from sam2fast.results.polygons import import_shapely

        import_shapely()


tolerance_option = click.option(
    "--tolerance",
    cls=RareOption,
    type=click.FloatRange(0),
    metavar="PIXELS",
    default=1.0,
    help="Maximum distance of polygons from the masks' outlines, for --format yolo-seg, labelme and geojson; 0 keeps "
    "every corner.",
)


def checked_device(_ctx: click.Context, _parameter: click.Parameter, names: str) -> str:
    """Checks names of devices without importing torch. Untested device types of torch are errors."""
    for name in names.split(","):
        if not re.fullmatch(r"auto|all|(cpu|cuda|mps)(:\d+)?", name.strip()):
            raise click.BadParameter(
                f"{name!r} is not a device; expected cpu, cuda (an NVIDIA or AMD GPU), cuda:1 (the second), "
                "mps (Apple) or auto"
            )
    return names


class ModelOptions(NamedTuple):
    """The values of :func:`model_options`."""

    name: str | None
    checkpoint: Path | None
    image_size: int | None
    device: str
    dtype: str

    def choose(self) -> ModelChoice:
        """Returns the model; see :func:`choose_model`."""
        return choose_model(self.name, self.checkpoint, self.image_size)

    def with_default(self, name: str) -> "ModelOptions":
        """Returns the options, with the default model ``name`` if no model and no checkpoint are given."""
        return self._replace(name=self.name or (name if self.checkpoint is None else None))

    def with_dtype(self, earlier: Iterable[Path] = (), in_cluster: bool = False) -> "ModelOptions":
        """Returns the options with a dtype in place of ``auto``; for the arguments see :func:`choose_dtype`."""
        return self if self.dtype != AUTO else self._replace(dtype=choose_dtype(self.device, earlier, in_cluster))


def choose_dtype(devices: str, earlier: Iterable[Path] = (), in_cluster: bool = False) -> str:
    """Returns the dtype for ``--dtype auto``: the dtype of earlier results, or the devices' usual dtype.

    Prints a note, unless the dtype is float32 and would be without earlier results. Of several devices, the first that
    lacks bfloat16 counts.

    Args:
        devices: Value of ``--device``.
        earlier: Files of earlier results. The dtype in the first file that states a dtype counts.
        in_cluster: True if workers of a cluster compute. GPUs of workers are assumed to have bfloat16.
    """
    import torch

    from sam2fast.utils.devices import available_device, usual_dtype

    with as_model_error():
        if in_cluster:
            dtypes = {torch.bfloat16 if devices == "cuda" else torch.float32}
        else:
            names = device_list(devices) if names_several(devices) else [devices]
            dtypes = {usual_dtype(available_device(name)) for name in names}
    usual = str(min(dtypes, key=[torch.float16, torch.bfloat16, torch.float32].index)).removeprefix("torch.")
    recorded = next((dtype for dtype in map(recorded_dtype, earlier) if dtype in DTYPES), None)
    if recorded is not None and recorded != usual:
        print_note(f"computing in {recorded}, as for the earlier results; --dtype chooses another dtype")
    elif usual != "float32":
        print_note(f"computing in {usual}, which is usual on this device; --dtype chooses another dtype")
    return recorded or usual


def model_options(
    command: Command, dtypes: Sequence[str] = (AUTO, *DTYPES), default: str | None = None, many_devices: bool = False
) -> Command:
    """Adds ``--offline``, and options that the command gets as :class:`ModelOptions` in the argument ``model``.

    Args:
        dtypes: Choices of ``--dtype``, first the default.
        default: Default model of the command.
        many_devices: True if the command takes several devices.
    """

    @functools.wraps(command)
    def collected(*args: Any, model: str | None, **kwargs: Any) -> Any:
        return command(*args, model=ModelOptions(model, *map(kwargs.pop, ModelOptions._fields[1:])), **kwargs)

    of_model = MODEL_HELP.format("owner/name on the Hugging Face hub; or a YAML file", default or USUAL_MODEL)
    of_dtype = "Dtype of the computation" + ("; auto: bfloat16 or float16 on CUDA." if AUTO in dtypes else ".")
    of_device = "; several as cuda:0,cuda:1, or all" if many_devices else ""
    for option in (
        click.option("--dtype", type=click.Choice(dtypes), default=dtypes[0], help=of_dtype),
        click.option(
            "--device", default="auto", callback=checked_device, help=f"auto, cpu, cuda, cuda:1, mps{of_device}."
        ),
        offline_option,
        image_size_option,
        _checkpoint_option,
        click.option("--model", metavar="NAME", help=of_model),
    ):
        collected = option(collected)
    return collected  # type: ignore[return-value]


def checked_strategy(_ctx: click.Context | None, _parameter: click.Parameter | None, name: str) -> str:
    """Checks the name of a strategy. Callback of ``--strategy``."""
    if name != "sam2":
        from sam2fast.tracking.strategies import STRATEGIES

        if name not in STRATEGIES:
            raise click.BadParameter(f"there is no strategy {name!r}; expected {', '.join(STRATEGIES)}")
    return name


STRATEGY_HELP = (
    "The rule for masks and memories: sam2, samurai, {}confident, dam4sam, d4sm or together. docs/strategies.md "
    "describes their uses."
)
strategy_option = click.option(
    "--strategy", metavar="NAME", default="sam2", callback=checked_strategy, help=STRATEGY_HELP.format("sam2long, ")
)


max_megapixels_option = click.option(
    "--max-megapixels",
    cls=RareOption,
    type=click.IntRange(1),
    metavar="N",
    expose_value=False,
    callback=_sets_variable(MEGAPIXELS_VARIABLE),
    help="Maximum megapixels of an image; larger images are refused.  [default: 268]",
)


def out_option(default: str) -> Callable[[Command], Command]:
    """Adds ``--out``, the folder for the results."""
    return click.option("--out", type=PATH, default=Path(default), metavar="DIR", help="Folder for the results.")
