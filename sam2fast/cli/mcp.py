"""``sam2fast mcp``: segmentation and tracking as tools for language models."""

from pathlib import Path

import click

from sam2fast.cli.options import ModelOptions, model_options
from sam2fast.cli.user_errors import as_model_error


@click.command()
@model_options
@click.option(
    "--root",
    "roots",
    multiple=True,
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder below which images and videos may be read. Repeatable.",
)
@click.option("--max-mb", "max_megabytes", type=click.IntRange(1), default=256, help="Size of a file.")
@click.option("--max-frames", type=click.IntRange(1), default=300, help="Frames that a call may track.")
@click.option("--max-objects", type=click.IntRange(1), default=50, help="Prompts, or masks, of a call.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=120.0, help="Time after which a call ends.")
def mcp(
    model: ModelOptions, roots: tuple[Path, ...], max_megabytes: int, max_frames: int, max_objects: int, seconds: float
) -> None:
    """A Model Context Protocol server on stdin and stdout: masks of images and videos for language models.

    An MCP client starts it, such as an editor or an assistant on the desktop. docs/mcp.md has a configuration.
    """
    from sam2fast.amg.parameters import thresholds_of
    from sam2fast.integrations.mcp import McpLimits, McpTools, make_server
    from sam2fast.integrations.models import load_predictors

    choice = model.choose()
    with as_model_error():
        predictor, of_images = load_predictors(
            choice.config, choice.checkpoint, model.device, model.dtype, model.image_size
        )
    limits = McpLimits(max_megabytes=max_megabytes, max_frames=max_frames, max_objects=max_objects, seconds=seconds)
    make_server(McpTools(predictor, roots, limits, of_images, thresholds_of(choice.config))).run()
