"""``sam2fast mcp``: serves segmentation and tracking as tools for language models."""

from pathlib import Path

import click

from sam2fast.cli.command import HomePath, command, option, shared
from sam2fast.cli.options import ModelOptions, model_options
from sam2fast.cli.user_errors import as_model_error


class McpCommand:
    """Run a Model Context Protocol server on stdin and stdout: masks of images and videos for language models.

    An MCP client, such as an editor or a desktop assistant, starts the server. docs/mcp.md has a configuration.
    """

    model: ModelOptions = shared(model_options)
    roots: tuple[Path, ...] = option(
        "--root",
        multiple=True,
        required=True,
        metavar="DIR",
        type=HomePath(exists=True, file_okay=False, path_type=Path),
        help="Folder below which images and videos may be read. Repeatable.",
    )
    max_megabytes: int = option("--max-mb", type=click.IntRange(1), default=256, help="Maximum size of a file.")
    max_frames: int = option(type=click.IntRange(1), default=300, help="Maximum number of frames that a call tracks.")
    max_objects: int = option(type=click.IntRange(1), default=50, help="Maximum number of prompts or masks of a call.")
    seconds: float = option(type=click.FloatRange(0, min_open=True), default=120.0, help="Maximum duration of a call.")

    def run(self) -> None:
        from sam2fast.amg.parameters import thresholds_of
        from sam2fast.integrations.mcp import McpLimits, McpTools, make_server
        from sam2fast.integrations.models import load_predictors

        choice = self.model.choose()
        settings = self.model.device, self.model.with_dtype().dtype, self.model.image_size
        with as_model_error():
            predictor, of_images = load_predictors(choice.config, choice.checkpoint, *settings)
        limits = McpLimits(
            self.max_megabytes, max_frames=self.max_frames, max_objects=self.max_objects, seconds=self.seconds
        )
        make_server(McpTools(predictor, self.roots, limits, of_images, thresholds_of(choice.config))).run()


mcp = command(McpCommand)
