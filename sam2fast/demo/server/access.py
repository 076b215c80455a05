"""Who may ask, how much at a time, and what browsers are told about the answers."""

from flask import Flask, Response, request

from sam2fast.demo.server.errors import DemoError, TooLargeError, shown
from sam2fast.demo.server.origins import host_of, name_of, parse_origin
from sam2fast.demo.server.settings import MEBIBYTE, ServerSettings

# Scripts, pictures and films of this server alone; pages of others cannot show it in a frame.
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PREFLIGHT_SECONDS = 600
MOST_BYTES_OF_JSON = MEBIBYTE  # bodies that are read into memory


class ForeignOriginError(DemoError):
    """A page of another site asks, which was not allowed."""

    code, status = "FOREIGN_ORIGIN", 403


class UnknownHostError(DemoError):
    """The server is asked by a name that is not its own."""

    code, status = "UNKNOWN_HOST", 403


def brings_file() -> bool:
    """Whether the request at hand may be as large as an upload; what is not a file in it has its own limit."""
    return request.path == "/graphql" and request.mimetype == "multipart/form-data"


def too_large(settings: ServerSettings) -> TooLargeError:
    """What the sender of the request at hand is told about its size."""
    if brings_file():
        return TooLargeError(f"the request is too large; a file may have {settings.max_upload_megabytes} MB")
    return TooLargeError(f"the request is too large; it may have {MOST_BYTES_OF_JSON // MEBIBYTE} MB")


def guard(app: Flask, settings: ServerSettings) -> None:
    """Refuses other sites' pages, but for those allowed, and adds headers to all answers."""
    allowed = frozenset(map(parse_origin, settings.allow_origins))

    @app.before_request
    def limit_body() -> None:
        if not brings_file():
            request.max_content_length = MOST_BYTES_OF_JSON

    @app.before_request
    def check_origin() -> Response | None:
        host = request.host
        if settings.trusted_hosts and name_of(host) not in settings.trusted_hosts:
            raise UnknownHostError(f"the server is not known as {shown(host)}; see sam2fast serve --api-url")
        origin = request.headers.get("Origin")
        if origin is None or origin in allowed or host_of(origin) == host:
            preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
            return Response(status=204) if preflight else None
        raise ForeignOriginError(f"pages of {shown(origin)} may not use this server; see sam2fast serve --allow-origin")

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response.headers
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["X-Frame-Options"] = "DENY"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin" if allowed else "same-origin"
        if not (settings.graphiql and request.path == "/graphql"):
            headers["Content-Security-Policy"] = CONTENT_POLICY
        headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin in allowed:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
            if request.method == "OPTIONS":
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers["Access-Control-Allow-Headers"] = "Content-Type"
                headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response
