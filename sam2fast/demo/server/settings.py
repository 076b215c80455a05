"""The server's settings, and the origins that they name."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MEBIBYTE = 1 << 20
SERVICE = "sam2fast"  # key of the DemoService in ``app.extensions``
PUBLIC = ("/healthy", "/ready")  # paths of health checks, which need no token
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    Attributes:
        data: folder of ``gallery``, ``uploads``, ``sources`` and ``posters``.
        model: the model's name, shown on the page.
        max_sessions: how many sessions may be open at a time.
        session_minutes: idle minutes after which a session is closed.
        session_megabytes: memory for the tracking results of one session.
        max_upload_megabytes: largest size of an uploaded file.
        max_seconds: longest part of an uploaded video that is kept.
        fps: frame rate of transcoded uploads; None keeps the source's rate, up to 60.
        allow_origins: other origins, such as ``https://demo.example``, whose pages may use the server.
        trusted_hosts: accepted host names; empty accepts any.
        token: secret that requests must bring; None accepts requests without one.
        graphiql: whether GET /graphql shows GraphiQL, which is loaded from the network.
        api_url: prefix of the video addresses in answers; None uses the address of the request.
        default_video: path of the first video shown, such as ``gallery/01_dog.mp4``; None for the gallery's first.
    """

    data: Path
    model: str = "mini"
    max_sessions: int = 16
    session_minutes: float = 15.0
    session_megabytes: int = 1024
    max_upload_megabytes: int = 70
    max_seconds: float = 60.0
    fps: int | None = None
    allow_origins: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    token: str | None = None
    graphiql: bool = False
    api_url: str | None = None
    default_video: str | None = None


def parse_origin(text: str) -> str:
    """Normalises an origin such as ``https://demo.example:8443``: lower case, no default port. Raises ValueError."""
    parts = urlsplit(text)
    host, port = parts.hostname, parts.port
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in DEFAULT_PORTS or not host or extra:
        raise ValueError(f"{text!r} is not an origin; expected one such as https://demo.example:8443")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}" + ("" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}")


def netloc_of(url: str) -> str | None:
    """The host and port of a URL or origin; None if it has none."""
    try:
        return urlsplit(url).netloc or None
    except ValueError:
        return None


def hostname_of(netloc: str) -> str | None:
    """The host in lower case without its port; None if there is no valid host."""
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
