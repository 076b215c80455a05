"""The server of ``sam2fast serve``, from checked options to its end."""

import logging
import sys

import click
from flask import Flask

from sam2fast.cli.errors import UserError
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.demo.server.serving import FAILED_TO_START, Address, ServingError, serve
from sam2fast.demo.server.settings import ServerSettings

# A correction of a tracked frame stays when the video is tracked again: people expect to see what they have clicked.
KEEP_CORRECTIONS = "++model.add_all_frames_to_correct_as_cond=true"


def run(settings: ServerSettings, choice: ModelChoice, device: str, host: str, port: int) -> None:
    """Serves until it is told to end.

    Raises:
        UserError: the address cannot be had, the data folder cannot be used, or the model does not load.
    """

    def build() -> Flask:
        try:
            return _build(settings, choice, device)
        except UserError as error:
            error.show()
            sys.exit(FAILED_TO_START)

    def tell(address: str) -> None:
        click.echo(f"sam2fast: {settings.model} at {address}, data in {settings.data}; Ctrl-C ends it")

    try:
        serve(build, Address(host, port), settings.max_sessions, tell)
    except ServingError as error:
        raise UserError(str(error)) from error


def _log_to_stderr() -> None:
    """With times and tracebacks, unlike the notes of other commands: this one runs unattended."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)s] %(message)s"))
    logger = logging.getLogger("sam2fast.demo.server")
    logger.addHandler(handler)
    logger.propagate = False


def _build(settings: ServerSettings, choice: ModelChoice, device: str) -> Flask:
    """In the process that serves."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.checkpoints import CheckpointError
    from sam2fast.config import ConfigError
    from sam2fast.demo.server.app import make_app
    from sam2fast.demo.server.errors import DemoError
    from sam2fast.demo.server.gallery import draw_gallery
    from sam2fast.demo.server.library import GALLERY, INCOMING

    _log_to_stderr()
    try:
        predictor = build_sam2_video_predictor(
            choice.config, choice.checkpoint, device=device, hydra_overrides_extra=[KEEP_CORRECTIONS]
        )
        app = make_app(settings, predictor)
        gallery = settings.data / GALLERY
        if not any(gallery.rglob("*.mp4")):
            click.echo("sam2fast: drawing the gallery's films, once", err=True)
            draw_gallery(gallery, settings.data / INCOMING)
    except (OSError, ValueError, RuntimeError, CheckpointError, ConfigError, DemoError) as error:
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
    return app
