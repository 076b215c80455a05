"""``sam2fast serve``: the web demo."""

import math
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.errors import UserError
from sam2fast.cli.files import check_folder
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.demo.server.origins import name_of, parse_origin

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDED = {"flask": "flask", "strawberry": "strawberry-graphql", "gunicorn": "gunicorn", "av": "av"}


class OriginType(click.ParamType):
    """Where a page comes from, such as ``https://demo.example:8443``."""

    name = "URL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Takes a scheme and a host, and a port where it is not the usual one; no path."""
        try:
            return parse_origin(value)
        except ValueError:
            self.fail(f"{value!r} is no origin; expected one such as https://demo.example:8443", param, ctx)


class FiniteRange(click.FloatRange):
    """As its base, which takes NaN and, without a maximum, infinity for numbers of any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Takes what is a number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of this range", param, ctx)
        return number


@click.command()
@click.option(
    "--model",
    metavar="NAME",
    help="nano (the default): the small model in the package; tiny, small, base_plus or large: the SAM 2.1 models; an "
    "official name such as sam2_hiera_t; or a YAML file.",
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Weights; left out, the official file is looked for as by the other commands.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. Anything else than the default lets other machines in; there are no passwords.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=7263, show_default=True, help="0 for any that is free.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of gallery/, uploads/ and posters/. An empty gallery is filled with drawn films. Left out, a folder "
    "in the user's cache.",
)
@click.option("--default-video", metavar="PATH", help="To begin with, such as gallery/01_dog.mp4; else the first one.")
@click.option("--max-sessions", type=click.IntRange(1, 256), default=16, show_default=True, help="Open at a time.")
@click.option(
    "--session-minutes",
    type=FiniteRange(0, min_open=True),
    default=15.0,
    show_default=True,
    help="Of idleness, after which a session is closed.",
)
@click.option(
    "--session-mb",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Memory of one session for what it remembers of its objects.",
)
@click.option(
    "--max-upload-mb", type=click.IntRange(1), default=70, show_default=True, help="Size of an uploaded file."
)
@click.option(
    "--max-seconds",
    type=FiniteRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="Of an uploaded video that are kept.",
)
@click.option(
    "--fps",
    type=click.Choice(["24", "source"]),
    default="24",
    show_default=True,
    help="Frames per second of uploads: 24 as in the original, or their own, up to 30.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    type=OriginType(),
    help="Where else pages may come from that use this server; by default only from itself. The server may then be "
    "addressed by these names and this machine's own, and no others. Repeatable.",
)
@click.option(
    "--api-url",
    type=OriginType(),
    help="Begins the addresses of videos; by default as the server was asked. The server may then be addressed by this "
    "name and this machine's own, and no others.",
)
@click.option("--graphiql", is_flag=True, help="GraphiQL at GET /graphql; it loads itself from the network.")
def serve(
    model: str | None,
    checkpoint: Path | None,
    device: str,
    host: str,
    port: int,
    data: Path | None,
    default_video: str | None,
    max_sessions: int,
    session_minutes: float,
    session_mb: int,
    max_upload_mb: int,
    max_seconds: float,
    fps: str,
    origins: tuple[str, ...],
    api_url: str | None,
    graphiql: bool,
) -> None:
    """The web demo: click on things in a video, track them, take the masks away.

    Serves the front end and its API, which is that of the original's demo, until Ctrl-C. docs/serve.md has the rest:
    the API with examples, containers, and what to heed where others can reach the server.
    """
    _check_installed()
    named = model or ("nano" if checkpoint is None else None)
    choice = choose_model(named, checkpoint)
    folder = _data_folder(data)

    from sam2fast.cli.serve_run import run
    from sam2fast.demo.server.settings import ServerSettings

    settings = ServerSettings(
        data=folder,
        model=named or _short(choice),
        max_sessions=max_sessions,
        session_minutes=session_minutes,
        session_megabytes=session_mb,
        max_upload_megabytes=max_upload_mb,
        max_seconds=max_seconds,
        fps=None if fps == "source" else int(fps),
        allow_origins=origins,
        trusted_hosts=_trusted(host, (*origins, *([api_url] if api_url else []))),
        graphiql=graphiql,
        api_url=api_url,
        default_video=default_video,
    )
    run(settings, choice, device, host, port)


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"the web demo needs {', '.join(missing)}: pip install 'sam2fast[serve]'")


def _short(choice: ModelChoice) -> str:
    return Path(choice.config).stem


def _data_folder(data: Path | None) -> Path:
    """The folder of the gallery, the uploads and the posters.

    Raises:
        UserError: it is a file.
    """
    from sam2fast.downloads.places import own_cache

    folder = own_cache() / "demo" if data is None else data
    check_folder(folder, "data folder")
    return folder


def _trusted(host: str, origins: tuple[str, ...]) -> tuple[str, ...]:
    """The names under which the server may be asked.

    A server for this machine alone is asked by this machine's names, and one that has been given names by these, too.
    Under any other name, a page on the internet could reach it that has had its own name point here. What names lead to
    a server that others can reach and that was given none is not known.
    """
    if not origins and not _is_loopback(host):
        return ()
    named = (name_of(origin.partition("://")[2]) for origin in origins)
    return tuple(dict.fromkeys((*LOOPBACK, host.lower(), *filter(None, named))))


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach this address or name of its own."""
    import socket
    from ipaddress import ip_address

    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # listening there will fail, and say why
    return all(ip_address(address).is_loopback for address in found)
