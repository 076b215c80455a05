"""``sam2fast serve``: serves the web demo."""

import logging
import secrets
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.command import HomePath, command, option, shared
from sam2fast.cli.command_files import check_folder
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import (
    MODEL_HELP,
    STRATEGY_HELP,
    USUAL_MODEL,
    checked_device,
    checked_strategy,
    image_size_option,
    offline_option,
)
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.terminal import print_message
from sam2fast.cli.user_errors import USER_ERRORS, UserError, as_user_error, format_error, print_note
from sam2fast.demo.server.settings import ServerSettings, hostname_of, parse_origin
from sam2fast.downloads.catalog import own_cache

if TYPE_CHECKING:
    from flask import Flask

    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_MINUTES = 60 * 24 * 365  # seconds of a year
NEEDED = {"flask": "flask", "strawberry": "strawberry-graphql", "gunicorn": "gunicorn", "av": "av"}


class OriginType(click.ParamType):
    """Type of options with the origin of a page, such as ``https://demo.example:8443``."""

    name = "URL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Accepts a scheme, a host and optionally a port, without a path."""
        try:
            return parse_origin(value)
        except ValueError:
            self.fail(f"{value!r} is not an origin; expected one such as https://demo.example:8443", param, ctx)


class ServeCommand:
    """Serve the web demo: click on objects in a video, track them, download the masks.

    Serves the front end and the API of the official demo until Ctrl-C. docs/serve.md describes the API with examples,
    containers, and precautions for a server that other people can reach.
    """

    model: str | None = option(metavar="NAME", help=MODEL_HELP.format("or a YAML file with --checkpoint", USUAL_MODEL))
    checkpoint: Path | None = option(
        metavar="FILE", help="Weights.  [default: the official file, found as in the other commands]"
    )
    image_size: int | None = shared(image_size_option, offline_option)
    device: str = option(default="auto", callback=checked_device, help="auto, cpu, cuda, cuda:1, mps.")
    strategy: str = option(metavar="NAME", default="sam2", callback=checked_strategy, help=STRATEGY_HELP.format(""))
    host: str = option(
        default="127.0.0.1",
        help="Address to listen on. If other machines can reach this address, requests need a token.",
    )
    token: str | None = option(
        metavar="TEXT",
        envvar="SAM2FAST_TOKEN",
        help="Secret that requests must have; also from SAM2FAST_TOKEN in the environment.  [default: none if only "
        "this machine can reach --host, else a random one in the printed link]",
    )
    no_token: bool = option(help="Accept requests without a token.")
    port: int = option(type=click.IntRange(0, 65535), default=7263, help="Port to listen on; 0 for any free port.")
    data: Path | None = option(
        type=HomePath(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Folder of gallery/, uploads/, sources/ and posters/. An empty gallery is filled with a real and several "
        "synthetic videos.  [default: a folder in the user's cache]",
    )
    default_video: str | None = option(
        metavar="PATH", help="Video to show first, such as gallery/01_dog.mp4.  [default: the first of the gallery]"
    )
    max_sessions: int = option(type=click.IntRange(1, 256), default=16, help="Maximum number of open sessions.")
    session_minutes: float = option(
        type=click.FloatRange(0, MOST_MINUTES, min_open=True),
        default=15.0,
        help="Close a session after this time without requests.",
    )
    session_megabytes: int = option(
        "--session-mb", type=click.IntRange(1), default=1024, help="Maximum size of one session's memory bank."
    )
    max_upload_megabytes: int = option(
        "--max-upload-mb", type=click.IntRange(1), default=70, help="Maximum size of an uploaded file."
    )
    max_seconds: float = option(
        type=click.FloatRange(0, 3600, min_open=True),
        default=60.0,
        help="Trim uploaded videos to this many seconds: each frame of a session takes memory and time.",
    )
    fps: int | None = option(
        type=click.Choice(["24", "source"]),
        default="source",
        callback=lambda ctx, option, fps: None if fps == "source" else int(fps),
        help="Frames per second of uploads: the source's rate, up to 60, or 24 as in the official demo.",
    )
    allow_origins: tuple[str, ...] = option(
        "--allow-origin",
        multiple=True,
        type=OriginType(),
        help="Another origin with pages that may use this server. With this option, the server accepts only requests "
        "under this name and this machine's own names. Repeatable.",
    )
    api_url: str | None = option(
        type=OriginType(),
        help="Base of the URLs of videos. With this option, the server accepts only requests under this name and this "
        "machine's own names.  [default: the base of the request]",
    )
    in_browser: bool = option(
        help="Serve a page that runs the model itself, by default nano. Needs npm at the first "
        "start, and pip install 'sam2fast[onnx]'."
    )
    graphiql: bool = option(help="Serve GraphiQL at GET /graphql. The page loads GraphiQL from the network.")

    def run(self) -> None:
        from importlib.util import find_spec

        if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
            raise UserError(f"the web demo needs {', '.join(missing)}: pip install 'sam2fast[serve]'")
        if self.strategy == "sam2long":
            raise click.UsageError(
                "--strategy sam2long decides about masks when a pass ends, but the demo shows each frame when it is "
                "tracked; give another strategy"
            )
        if self.in_browser:
            ctx = click.get_current_context()
            for one in ctx.command.params:
                name = str(one.name)
                is_given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
                if is_given and one.expose_value and name not in PAGE_OPTIONS:
                    raise click.UsageError(f"{one.opts[0]} is for a server that runs the model; leave out --in-browser")
        default = "nano" if self.in_browser and self.checkpoint is None else None
        choice = choose_model(self.model or default, self.checkpoint, self.image_size)
        folder = own_cache() / "demo" if self.data is None else self.data
        check_folder(folder, "data folder")
        token = _token(self.host, self.token, self.no_token)
        origins = (*self.allow_origins, *filter(None, [self.api_url]))
        settings = {one.name: getattr(self, one.name) for one in fields(ServerSettings) if one.name in vars(self)}
        settings |= {"data": folder, "model": self.model or default or Path(choice.config).stem, "token": token}
        parsed = ServerSettings(**settings, trusted_hosts=_trusted(self.host, origins))
        build = _build_page if self.in_browser else partial(_build, device=self.device, strategy=self.strategy)
        run(build, parsed, choice, self.host, self.port)


serve = command(ServeCommand, output_options())


# Options that may be combined with --in-browser.
PAGE_OPTIONS = (
    *("model", "checkpoint", "image_size", "host", "port", "token", "no_token", "data", "in_browser"),
    *("jsonl", "quiet"),
)


def _token(host: str, token: str | None, no_token: bool) -> str | None:
    """Returns the token that requests need, or None."""
    if no_token and token is not None:
        raise click.UsageError("--token and --no-token contradict each other; give one of them")
    if token is not None and not (token.isascii() and token.isalnum()):
        raise click.UsageError("--token becomes part of a URL: letters and digits only")
    if token is not None or no_token or _is_loopback(host):
        return token
    return secrets.token_hex(16)


def _trusted(host: str, origins: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the host names that requests may use. An empty result allows any name.

    Checking the names prevents DNS rebinding: a page on the internet could point its own name to this machine. If only
    this machine can reach the server, or if there are ``origins``, requests may use the names of this machine and of
    the origins. Otherwise the server's names are unknown, and the result is empty.
    """
    if not origins and not _is_loopback(host):
        return ()
    named = (hostname_of(origin.partition("://")[2]) for origin in origins)
    return tuple(dict.fromkeys((*LOOPBACK, host.lower(), *filter(None, named))))


def _is_loopback(host: str) -> bool:
    """Returns True if only this machine can reach the address or name."""
    import socket
    from ipaddress import ip_address

    try:
        addresses = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # an unknown host: listening fails with a clear error
    return all(ip_address(address).is_loopback for address in addresses)


# Tracking again keeps the corrections of tracked frames, since users expect to see their clicks.
KEEP_CORRECTIONS = "++model.add_all_frames_to_correct_as_cond=true"


def run(
    make: Callable[[ServerSettings, ModelChoice], "Flask"],
    settings: ServerSettings,
    choice: ModelChoice,
    host: str,
    port: int,
) -> None:
    """Serves the application until a signal ends it. ``make`` is called in the serving process."""
    from sam2fast.demo.server import serving

    def build() -> "Flask":
        try:
            return make(settings, choice)
        except USER_ERRORS as error:
            print_message(format_error(error))
            sys.exit(serving.FAILED_TO_START)

    def announce(address: str) -> None:
        link = address if settings.token is None else f"{address}/?token={settings.token}"
        emit({"address": address, "token": settings.token, "data": str(settings.data), "model": choice.as_json()})
        say(f"Open {link} in a browser; model {settings.model}; data in {settings.data}; Ctrl-C ends it")

    serving.serve(build, serving.Address(host, port), announce)


def _log_to_stderr() -> None:
    """Logs with times and tracebacks, unlike the notes of other commands, since the server runs unattended."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(levelname)s] %(message)s"))
    logger = logging.getLogger("sam2fast.demo.server")
    logger.addHandler(handler)
    logger.propagate = False


def _build(settings: ServerSettings, choice: ModelChoice, device: str, strategy: str) -> "Flask":
    """Makes the application in the serving process."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.demo.server.app import make_app
    from sam2fast.demo.server.gallery import begin_gallery
    from sam2fast.demo.server.library import GALLERY, INCOMING

    _log_to_stderr()
    options: dict[str, Any] = {"hydra_overrides_extra": [KEEP_CORRECTIONS], "image_size": choice.image_size}

    def load(chosen: ModelChoice) -> "SAM2VideoPredictor":
        return build_sam2_video_predictor(chosen.config, chosen.checkpoint, device, strategy=strategy, **options)

    with as_user_error(ValueError, RuntimeError):
        # All users share the model, so only a server for this machine lets users change the model.
        may_change = settings.trusted_hosts and all(map(_is_loopback, settings.trusted_hosts))
        change = (lambda name: load(choose_model(name, None))) if may_change else None
        app = make_app(settings, load(choice), change, strategy)
        begin_gallery(settings.data / GALLERY, settings.data / INCOMING)
    return app


def _build_page(settings: ServerSettings, choice: ModelChoice) -> "Flask":
    """Makes the application for a page that runs the model in the browser. Exports the page once for each model."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.demo.in_browser.app import make_page_app
    from sam2fast.demo.in_browser.page import page_key, write_page
    from sam2fast.demo.server.gallery import begin_gallery
    from sam2fast.demo.server.library import GALLERY, INCOMING

    _log_to_stderr()
    with as_user_error(ValueError, RuntimeError, ImportError):
        page = own_cache() / "in_browser" / page_key(choice.fingerprint())
        if not page.is_dir():
            options: dict[str, Any] = {"hydra_overrides_extra": [KEEP_CORRECTIONS], "image_size": choice.image_size}
            model = build_sam2_video_predictor(choice.config, choice.checkpoint, "cpu", **options)
            write_page(model, page, settings.model, choice.config, progress=lambda text: print_note(f"{text} ..."))
        app = make_page_app(settings, page)
        begin_gallery(settings.data / GALLERY, settings.data / INCOMING)
    return app
