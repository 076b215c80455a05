"""``sam2fast label-studio``: runs the ML backend for Label Studio."""

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from sam2fast.cli.command import command, option, shared
from sam2fast.cli.options import ModelOptions, model_options
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import UserError, as_model_error, as_user_error
from sam2fast.io.allowed_files import HostFiles

if TYPE_CHECKING:
    from flask import Flask

NEEDED = ("flask", "gunicorn", "av", "shapely")


class LabelStudioCommand:
    """Run an ML backend for Label Studio: masks in images, boxes and outlines in videos.

    Serves until Ctrl-C. In Label Studio, enter the backend's address under Settings, Model, and switch interactive
    preannotations on. docs/label_studio.md has labelling interfaces.
    """

    model: ModelOptions = shared(model_options)
    url: str = option(
        envvar="LABEL_STUDIO_URL",
        default="http://localhost:8080",
        help="Address of Label Studio, also from LABEL_STUDIO_URL in the environment. Files are only read from this "
        "address.",
    )
    token: str | None = option(
        metavar="TEXT",
        envvar="LABEL_STUDIO_API_KEY",
        help="Access token of Label Studio, for files; also from LABEL_STUDIO_API_KEY in the environment.",
    )
    host: str = option(default="127.0.0.1", help="Address to listen on. Everybody who can reach it may use the server.")
    port: int = option(type=click.IntRange(0, 65535), default=9090, help="Port to listen on; 0 for any free port.")
    images: int = option(type=click.IntRange(1), default=16, help="Maximum number of image embeddings, 16 MB each.")
    frames: int = option(type=click.IntRange(1), default=50, help="Maximum number of frames that a request tracks.")
    max_mb: int = option(type=click.IntRange(1), default=256, help="Maximum size of an image or a video.")

    def run(self) -> None:
        if any(find_spec(package) is None for package in NEEDED):
            raise UserError(f"the Label Studio backend needs {', '.join(NEEDED)}: pip install 'sam2fast[label-studio]'")
        from sam2fast.demo.server import serving

        with as_user_error(ValueError):
            HostFiles(self.url, self.max_mb)
        choice = self.model.choose()

        def build() -> "Flask":
            # Loads the model in the serving process, since torch's threads do not survive a fork.
            from sam2fast.integrations.label_studio import LabelStudioBackend, make_app, reader_of
            from sam2fast.integrations.models import load_predictors

            try:
                with as_model_error():
                    settings = self.model.device, self.model.with_dtype().dtype, self.model.image_size
                    predictor, of_images = load_predictors(choice.config, choice.checkpoint, *settings)
            except UserError as error:
                error.show()
                sys.exit(serving.FAILED_TO_START)
            reader = reader_of(self.url, self.token, self.max_mb)
            return make_app(LabelStudioBackend(predictor, reader, self.images, self.frames, of_images))

        def announce(address: str) -> None:
            emit({"address": address, "url": self.url, "model": choice.as_json()})
            say(f"Give Label Studio the address {address}; files are read from {self.url}; Ctrl-C ends it")

        serving.serve(build, serving.Address(self.host, self.port), announce)


label_studio = command(LabelStudioCommand, output_options())
