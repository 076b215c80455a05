"""Files whose addresses and paths come from others: those of one web server, or below some folders, and no more."""

import base64
import binascii
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

IN_ADDRESSES = "%/:?=&#+,;@!$'()*~[]"  # characters that are not quoted
SECONDS = 30.0  # until the server answers, and between two parts of the answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Another host would get the headers, or be one that only this machine can reach."""


class HostFiles:
    """Reads files of one host, and ``data:`` URIs. No other address is opened, nor one that the host redirects to.

    Args:
        host: such as ``https://example.org``; relative addresses are of it.
        max_megabytes: larger files are refused.

    Raises:
        ValueError: the host is no address of http or https.
    """

    def __init__(self, host: str, max_megabytes: int = 256) -> None:
        parts = urlsplit(host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{host!r} is no address of a server; expected one such as http://localhost:8080")
        self._host, self._most = host.rstrip("/") + "/", max_megabytes << 20
        self._open = urllib.request.build_opener(_NoRedirects).open

    def read(self, address: Any, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """The content of a file, or the answer to a POST with a body.

        Raises:
            ValueError: an address of another kind or host, or content that is too large or cannot be read.
        """
        if not isinstance(address, str):
            raise ValueError(f"expected the address of a file, got {type(address).__name__}")
        too_large = ValueError(f"{address[:60]!r} has more than {self._most >> 20} MB")
        if address.startswith("data:"):
            header, _, text = address.partition(",")
            if len(text) > self._most * 4 / 3:
                raise too_large
            try:
                if header.endswith(";base64"):
                    return base64.b64decode(text, validate=True)
            except binascii.Error:
                pass
            raise ValueError("a data URI is damaged, or not in base64")
        try:
            full = quote(urljoin(self._host, address), safe=IN_ADDRESSES)
            if urlsplit(full)[:2] != urlsplit(self._host)[:2]:
                raise ValueError("it is elsewhere")
            asked = urllib.request.Request(full, body, dict(headers))  # noqa: S310  of the host's own scheme
            with self._open(asked, timeout=SECONDS) as answer:
                content: bytes = answer.read(self._most + 1)
        except (OSError, HTTPException) as error:
            raise ValueError(f"{address[:200]!r} cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{address[:200]!r} is not read: only files of {self._host} and data URIs are") from error
        if len(content) > self._most:
            raise too_large
        return content


class FolderFiles:
    """Finds files below some folders, also after symbolic links are followed.

    Args:
        folders: which exist.
        max_megabytes: larger files are refused.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folders: Sequence[Path], max_megabytes: int = 256) -> None:
        self._folders, self._most = [folder.resolve(strict=True) for folder in folders], max_megabytes << 20

    def find(self, path: str) -> Path:
        """A file by its path, absolute or in a folder. Raises ValueError, which tells nothing of files elsewhere."""
        below = [file for folder in self._folders if (file := (folder / path).resolve()).is_relative_to(folder)]
        if not below:
            raise ValueError(f"{path!r} is not below {' or '.join(map(str, self._folders))}, where files may be read")
        found = next((file for file in below if file.is_file()), None)
        if found is None:
            raise ValueError(f"there is no file {path!r}")
        if found.stat().st_size > self._most:
            raise ValueError(f"{path!r} has more than {self._most >> 20} MB")
        return found
