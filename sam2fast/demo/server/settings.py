"""What a server allows, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1 << 20
PROBE_SIZE = 32  # of the model's squares, where a film is opened for its own frames alone


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with.

    Attributes:
        data: folder of ``gallery``, ``uploads`` and ``posters``.
        model: its name, to be shown.
        max_sessions: how many may be open at a time.
        session_minutes: of idleness, after which a session is closed.
        session_megabytes: how much one session may remember of its objects.
        max_upload_megabytes: of an uploaded file.
        max_seconds: of an uploaded video that are kept.
        fps: frames per second that uploads are brought to; None keeps their own, up to 30.
        allow_origins: other sites, such as ``https://demo.example``, whose pages may use the server.
        trusted_hosts: names under which the server may be addressed; empty for any.
        graphiql: whether GET /graphql shows GraphiQL, which loads itself from the network.
        api_url: begins the addresses of videos in answers; None for the one that was asked.
        default_video: path such as ``gallery/01_dog.mp4`` of the video to begin with; None for the first.
    """

    data: Path
    model: str = "nano"
    max_sessions: int = 16
    session_minutes: float = 15.0
    session_megabytes: int = 1024
    max_upload_megabytes: int = 70
    max_seconds: float = 10.0
    fps: int | None = 24
    allow_origins: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    graphiql: bool = False
    api_url: str | None = None
    default_video: str | None = None

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_megabytes * MEBIBYTE

    @property
    def session_seconds(self) -> float:
        return 60 * self.session_minutes
