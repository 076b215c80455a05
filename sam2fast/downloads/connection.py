"""Opens addresses over HTTP: time limits, redirects, and which failures may pass."""

import base64
import email.utils
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any

from sam2fast import __version__
from sam2fast.downloads.errors import RefusedError, TemporaryError
from sam2fast.downloads.retries import Policy

TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
AUTHORIZATION = "Authorization"


class Response:
    """An answer: ``status``, ``headers`` and the body."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers  # an email.message.Message: case is ignored

    def read(self, size: int) -> bytes:
        """What has arrived, at most ``size`` bytes; empty at the end.

        Raises:
            TemporaryError: nothing came in time, or the connection broke.
        """
        with _network_errors():
            data: bytes = self._answer.read1(size)
        return data


@contextmanager
def opened(
    url: str,
    policy: Policy,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    stay_on_host: bool = False,
) -> Iterator[Response]:
    """Asks for an address and follows redirects, but never from https to http.

    Args:
        headers: ``Authorization`` among them is not sent to other hosts.
        stay_on_host: a redirect to another host is the answer instead of being followed.

    Raises:
        TemporaryError: it may work when it is asked again.
        RefusedError: it will not.
    """
    url, login = split_login(url)
    sent = {"User-Agent": f"sam2fast/{__version__}", "Accept-Encoding": "identity", **login, **(headers or {})}
    with _network_errors():
        request = _request(url, sent, method)
        try:
            answer = _opener(policy, stay_on_host).open(request, timeout=policy.connect_timeout)
        except urllib.error.HTTPError as error:
            if not (stay_on_host and error.code in (301, 302, 303, 307, 308) and "Location" in error.headers):
                with error:
                    raise _bad_status(error) from None
            answer = error
    with answer:
        yield Response(answer)


def read_small(url: str, policy: Policy, headers: Mapping[str, str] | None = None, most: int = 1 << 20) -> bytes:
    """The body of a short answer; raises as :func:`opened`."""
    with opened(url, policy, headers) as response:
        parts: list[bytes] = []
        while data := response.read(most):
            parts.append(data)
            if sum(map(len, parts)) > most:
                raise RefusedError(f"answers with more than {most} bytes")
    return b"".join(parts)


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """An address without the user and password in it, and the header that carries them."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # whoever asks for it is told
        return url, {}
    if parts.username is None:
        return url, {}
    login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return bare.geturl(), {AUTHORIZATION: "Basic " + base64.b64encode(login.encode()).decode()}


def _request(url: str, headers: Mapping[str, str], method: str) -> urllib.request.Request:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise RefusedError(f"{url!r} is no http:// or https:// address")
    request = urllib.request.Request(url, method=method)  # noqa: S310  the scheme is checked above
    for name, value in headers.items():
        # urllib sends ordinary headers to whatever host it is redirected to.
        (request.add_unredirected_header if name == AUTHORIZATION else request.add_header)(name, value)
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, stay_on_host: bool) -> None:
        self.stay_on_host = stay_on_host

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = (urllib.parse.urlsplit(url) for url in (req.full_url, newurl))
        if (before.scheme, after.scheme) == ("https", "http"):
            raise RefusedError(f"redirects from https to {newurl}, which is not followed")
        same_host = (before.scheme, before.netloc) == (after.scheme, after.netloc)
        if self.stay_on_host and not same_host:
            return None
        following = _request(newurl, req.headers, req.get_method())
        if same_host and AUTHORIZATION in req.unredirected_hdrs:
            following.add_unredirected_header(AUTHORIZATION, req.unredirected_hdrs[AUTHORIZATION])
        return following

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python 3.10 lacks it


class _StallTimeout:
    """A connection with one time limit for connecting and another one for everything after it."""

    sock: socket.socket

    def __init__(self, *args: Any, stall_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stall_timeout = stall_timeout

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(self.stall_timeout)


class _HTTP(_StallTimeout, http.client.HTTPConnection): ...


class _HTTPS(_StallTimeout, http.client.HTTPSConnection): ...


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, stall_timeout: float) -> None:
        super().__init__()
        self.stall_timeout = stall_timeout

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, /, **options: Any) -> http.client.HTTPConnection:
            return _HTTP(host, stall_timeout=self.stall_timeout, **options)

        return self.do_open(connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, stall_timeout: float) -> None:
        super().__init__()
        self.stall_timeout = stall_timeout

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, /, **options: Any) -> http.client.HTTPConnection:
            return _HTTPS(host, context=_tls(), stall_timeout=self.stall_timeout, **options)

        return self.do_open(connection, req)


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        # Some Pythons come without certificates; certifi is on most machines.
        try:
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _opener(policy: Policy, stay_on_host: bool) -> urllib.request.OpenerDirector:
    # Proxies of the environment are urllib's own default.
    return urllib.request.build_opener(
        _HTTPHandler(policy.stall_timeout), _HTTPSHandler(policy.stall_timeout), _Redirects(stay_on_host)
    )


def _bad_status(error: urllib.error.HTTPError) -> Exception:
    name = f"{error.code} {HTTPStatus(error.code).phrase}" if error.code in set(HTTPStatus) else str(error.code)
    if error.code in TEMPORARY:
        return TemporaryError(f"answers {name}", _retry_after(error.headers.get("Retry-After")))
    if 300 <= error.code < 400:
        return RefusedError(f"answers {name} and leads nowhere", error.code)
    return RefusedError(f"answers {name}", error.code)


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait, from a number or a date."""
    if text is None:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        try:
            return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
        except ValueError:
            return None


@contextmanager
def _network_errors() -> Iterator[None]:
    """Turns what urllib, http.client and sockets raise into our errors."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise _unreached(error.reason) from error
    except TimeoutError as error:
        raise TemporaryError("nothing arrived in time") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise RefusedError(f"is no address that can be asked: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise TemporaryError(f"the connection broke ({_name(error)})") from error


def _unreached(reason: object) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return RefusedError(f"its certificate is not trusted here ({reason.verify_message})")
    if isinstance(reason, TimeoutError):
        return TemporaryError("no connection in time", unreachable=True)
    if isinstance(reason, ConnectionResetError | ssl.SSLEOFError):
        return TemporaryError(f"the connection broke ({_name(reason)})")
    if isinstance(reason, OSError):
        return TemporaryError(f"cannot be reached ({_name(reason)})", unreachable=True)
    return RefusedError(str(reason))


def _name(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
