"""Where pages come from, as browsers write it."""

from urllib.parse import urlsplit

USUAL_PORTS = {"http": 80, "https": 443}


def parse_origin(text: str) -> str:
    """An origin such as ``https://demo.example:8443``: in lower case, without a port that is the usual one.

    Raises:
        ValueError: it is no scheme with a host and perhaps a port.
    """
    parts = urlsplit(text)
    host, port = parts.hostname, parts.port
    besides = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in USUAL_PORTS or not host or besides:
        raise ValueError(f"{text!r} is no origin; expected one such as https://demo.example:8443")
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{named}" + ("" if port in (None, USUAL_PORTS[parts.scheme]) else f":{port}")


def host_of(text: str) -> str | None:
    """The host that an address or an origin names, with its port; none in what is no address."""
    try:
        return urlsplit(text).netloc or None
    except ValueError:
        return None


def name_of(host: str) -> str | None:
    """A host in lower case and without its port; none in what is no host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
