"""Restricts addresses and paths from untrusted sources to one web server or some folders."""

import base64
import binascii
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

IN_ADDRESSES = "%/:?=&#+,;@!$'()*~[]"  # characters that are not quoted in addresses
SECONDS = 30.0  # timeout for the server's answer, and between two parts of the answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Refuses redirects. Another host would get the headers, or may be reachable only from this machine."""


class HostFiles:
    """Reads files from one host, and ``data:`` URIs. Refuses other addresses and redirects.

    Args:
        host: Address such as ``https://example.org``. Relative addresses are resolved against this address.
        max_megabytes: Maximum size of a file.

    Raises:
        ValueError: If ``host`` is not an http or https address.
    """

    def __init__(self, host: str, max_megabytes: int = 256) -> None:
        parts = urlsplit(host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{host!r} is not the address of a server; expected one such as http://localhost:8080")
        self._host, self._most = host.rstrip("/") + "/", max_megabytes << 20
        self._open = urllib.request.build_opener(_NoRedirects).open

    def read(self, address: Any, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """Returns the content of a file. With ``body``, returns the answer to a POST request.

        Raises:
            ValueError: If the address is refused, or the content is too large or cannot be read.
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
            raise ValueError("a data URI is damaged or not in base64")
        try:
            full = quote(urljoin(self._host, address), safe=IN_ADDRESSES)
            if urlsplit(full)[:2] != urlsplit(self._host)[:2]:
                raise ValueError("another host")
            request = urllib.request.Request(full, body, dict(headers))  # noqa: S310  the scheme is http or https
            with self._open(request, timeout=SECONDS) as answer:
                content: bytes = answer.read(self._most + 1)
        except (OSError, HTTPException) as error:
            raise ValueError(f"{address[:200]!r} cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{address[:200]!r} is refused: expected a file of {self._host} or a data URI") from error
        if len(content) > self._most:
            raise too_large
        return content


class FolderFiles:
    """Finds files below some folders, after resolving symbolic links.

    Args:
        folders: Existing folders.
        max_megabytes: Maximum size of a file.

    Raises:
        FileNotFoundError: If a folder does not exist.
    """

    def __init__(self, folders: Sequence[Path], max_megabytes: int = 256) -> None:
        self._folders, self._most = [folder.resolve(strict=True) for folder in folders], max_megabytes << 20

    def find(self, path: str) -> Path:
        """Returns the file with this absolute path, or with this path relative to a folder.

        Raises:
            ValueError: If the path is not allowed, or the file does not exist or is too large. The message does not
                reveal if files outside the folders exist.
        """
        allowed = [file for folder in self._folders if (file := (folder / path).resolve()).is_relative_to(folder)]
        if not allowed:
            raise ValueError(f"{path!r} is not below {' or '.join(map(str, self._folders))}, where files may be read")
        found = next((file for file in allowed if file.is_file()), None)
        if found is None:
            raise ValueError(f"there is no file {path!r}")
        if found.stat().st_size > self._most:
            raise ValueError(f"{path!r} has more than {self._most >> 20} MB")
        return found
