"""Faults of a server of checkpoints, for the ``faults`` of a file on :class:`CheckpointServer`."""

import socket
import struct
import time

from checkpoint_server import Fault, Handler, Served, serve


def cut(at: int) -> Fault:
    """Announces the whole file and ends after its first ``at`` bytes."""

    def fault(handler: Handler, file: Served) -> None:
        start = handler.head(file)
        handler.body(file.data[start:at])

    return fault


def reset(at: int) -> Fault:
    """The same, with a reset connection."""

    def fault(handler: Handler, file: Served) -> None:
        cut(at)(handler, file)
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return fault


def stall(at: int) -> Fault:
    """Sends the first ``at`` bytes, and then pauses until ``site.go_on`` is set, or for two minutes."""

    def fault(handler: Handler, file: Served) -> None:
        start = handler.head(file)
        handler.body(file.data[start : at - 100])
        time.sleep(0.05)  # what comes last is little enough to be left in a buffer
        handler.body(file.data[max(start, at - 100) : at])
        handler.site.stalled.set()
        if handler.site.go_on.wait(120):
            handler.body(file.data[max(start, at) :])

    return fault


def announce(more: int) -> Fault:
    """Announces ``more`` bytes than the file has (or fewer), and sends the file."""

    def fault(handler: Handler, file: Served) -> None:
        length = len(file.data) - handler.start_of(file) + more
        start = handler.head(file, length)
        handler.body(file.data[start : start + length])

    return fault


def status(code: int) -> Fault:
    """Answers with a status."""

    return lambda handler, file: handler.reply(code, b"no")


def ignore_range(handler: Handler, file: Served) -> None:
    """Sends the whole file instead of the requested range."""
    del handler.headers["Range"]
    serve(handler, file)


def wrong_part(handler: Handler, file: Served) -> None:
    """Sends a range that begins earlier than requested."""
    start = handler.start_of(file) - 10
    del handler.headers["Range"]
    handler.headers["Range"] = f"bytes={start}-"
    serve(handler, file)


def web_page(handler: Handler, file: Served) -> None:
    """Answers 200 with other content, as a login page or a cache does."""
    handler.reply(200, b"<!DOCTYPE html><html><body>Please log in</body></html>", ETag='"page"')
