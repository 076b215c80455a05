"""Access control: allowed origins and hosts, the token, the size of requests, and security headers."""

import hashlib
import hmac
import logging
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, redirect, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as BaseResponse

from sam2fast.demo.server.demo_errors import (
    INTERNAL,
    BadInputError,
    DemoError,
    DiskFullError,
    TooLargeError,
    is_disk_full,
    shortened,
)
from sam2fast.demo.server.settings import MEBIBYTE, PUBLIC, ServerSettings, hostname_of, netloc_of, parse_origin

_log = logging.getLogger(__name__)

# Scripts, images and videos of this server only; other pages cannot show this one in a frame.
CONTENT_POLICY = (
    "default-src 'self'; connect-src 'self' blob:; img-src 'self' blob: data:; media-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
PREFLIGHT_SECONDS = 600
LINK_FIELD = "token"  # in the address with which a browser is let in
# Such bodies are read into memory.
MAX_JSON_BYTES = MEBIBYTE
MAX_QUERY_BYTES = 32 * 1024  # of GraphQL, which takes seconds to read a megabyte of points; 256 points have 12 kB
MAX_MASKS_BYTES = 32 * MEBIBYTE
MASKS = ("/read_masks", "/export")  # endings of routes that take the masks of a whole video


class ForeignOriginError(DemoError):
    """The request comes from a page of another origin, which is not allowed."""

    code, status = "FOREIGN_ORIGIN", 403


class UnknownHostError(DemoError):
    """The request names a host that is not trusted."""

    code, status = "UNKNOWN_HOST", 403


class NoTokenError(DemoError):
    """The request does not bring the server's token."""

    code, status = "NO_TOKEN", 401


def is_upload() -> bool:
    """Returns True if the current request may be as large as an upload. Its other fields have a separate limit."""
    is_video = request.path == "/graphql" and request.mimetype == "multipart/form-data"
    return is_video or request.path.endswith(("/encode", "/thumbnail"))


def _limit_of_body() -> int:
    if request.path == "/graphql":
        return MAX_QUERY_BYTES
    return MAX_MASKS_BYTES if request.path.endswith(MASKS) else MAX_JSON_BYTES


def describe_error(error: Exception, settings: ServerSettings) -> tuple[str, str, int]:
    """The message, code and HTTP status that a client gets for an error of the current request."""
    if isinstance(error, RequestEntityTooLarge):
        size = _limit_of_body()
        limit = f"it may have {size // MEBIBYTE} MB" if size >= MEBIBYTE else f"it may have {size // 1024} kB"
        if is_upload():
            limit = f"a file may have {settings.max_upload_megabytes} MB"
        error = TooLargeError(f"the request is too large; {limit}")
    if isinstance(error, HTTPException):
        return error.description or error.name, error.name.upper().replace(" ", "_"), error.code or 500
    if is_disk_full(error):
        error = DiskFullError()
    if isinstance(error, RecursionError):
        error = BadInputError("the request is nested too deeply")
    if not isinstance(error, DemoError):
        _log.error("a request failed", exc_info=error)
        error = DemoError(INTERNAL)
    return str(error), error.code, error.status


def restrict_access(app: Flask, settings: ServerSettings) -> None:
    """Refuses requests of other origins that are not allowed, adds headers to all responses, and describes errors."""
    allowed = frozenset(map(parse_origin, settings.allow_origins))

    @app.before_request
    def limit_body() -> None:
        if not is_upload():
            request.max_content_length = _limit_of_body()

    @app.before_request
    def check_origin() -> Response | None:
        host = request.host
        if settings.trusted_hosts and hostname_of(host) not in settings.trusted_hosts:
            raise UnknownHostError(f"the server is not known as {shortened(host)}; see sam2fast serve --api-url")
        origin = request.headers.get("Origin")
        if origin is None or origin in allowed or netloc_of(origin) == host:
            preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
            return Response(status=204) if preflight else None
        raise ForeignOriginError(
            f"pages of {shortened(origin)} may not use this server; see sam2fast serve --allow-origin"
        )

    if settings.token is not None:
        _require_token(app, settings.token)

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
                headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
                headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> tuple[Response, int]:
        message, code, status = describe_error(error, settings)
        return jsonify({"error": {"code": code, "message": message}}), status


def _require_token(app: Flask, token: str) -> None:
    """Accepts requests with the token alone: as a bearer token, in an address, or in the cookie that this sets."""
    cookie = f"sam2fast-{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # servers at other ports have other cookies

    def is_token(text: str | None) -> bool:
        return text is not None and hmac.compare_digest(text.encode(), token.encode())

    @app.before_request
    def check_token() -> BaseResponse | None:
        asked = request.args.get(LINK_FIELD)
        if request.method == "GET" and is_token(asked):
            others = [(name, value) for name, value in request.args.items(multi=True) if name != LINK_FIELD]
            answer = redirect(request.path + (f"?{urlencode(others)}" if others else ""))
            answer.set_cookie(cookie, token, httponly=True, samesite="Lax", secure=request.is_secure)
            return answer
        bearer = request.authorization.token if request.authorization else None
        if request.path in PUBLIC or is_token(request.cookies.get(cookie)) or is_token(bearer):
            return None
        raise NoTokenError("open the link with the token that sam2fast serve has printed, or send it as a bearer token")
