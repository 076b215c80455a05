"""Connections of clients in gunicorn. Slow and silent clients get no thread, and some threads are reserved.

The event loop reads the headers of a request. A thread then handles the request. The event loop also discards the rest
of a refused request until its client has read the answer.
"""

import socket
import struct
import threading
import time
from contextlib import suppress
from selectors import EVENT_READ
from typing import Any, NamedTuple

from gunicorn.workers.gthread import ThreadWorker

from sam2fast.demo.server.settings import PUBLIC

SEND_TIMEOUT = 30.0  # seconds in which a client must accept some data
RECEIVE_TIMEOUT = 15.0  # seconds in which a client must send more of its request
HEADERS_TIMEOUT = 15.0  # seconds in which a client must send all headers of a request
LINGER_SECONDS = 2.0  # seconds to read the answer to an unread request
MAX_HEADERS_BYTES = 1 << 16
MAX_INCOMING, MAX_LINGERING = 256, 256  # connections that send headers, and that linger; the oldest is dropped
RESERVED_THREADS = 64  # threads for refusals and health checks
BLOCK_BYTES = 1 << 16
# A body must bring PACE_BYTES in each PACE_SECONDS for which the server waits.
PACE_BYTES, PACE_SECONDS = 10 << 10, 10.0
END_OF_HEADERS = b"\r\n\r\n"
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n"
    b"\r\n%s"
)
BUSY_BODY = b'{"error":{"code":"BUSY","message":"the server answers too many requests; try again in a minute"}}'


class _Incoming(NamedTuple):
    """A connection while its headers arrive."""

    connection: Any
    deadline: float
    received: bytearray


class ConnectionWorker(ThreadWorker):
    """Gives a thread only to connections with complete headers, and closes connections without waiting."""

    def init_process(self) -> None:
        """Runs in the worker process before it serves."""
        # The oldest connections come first in both.
        self._incoming: dict[socket.socket, _Incoming] = {}
        self._lingering: dict[socket.socket, float] = {}  # deadlines
        self._places = threading.Semaphore(self.cfg.threads - RESERVED_THREADS)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Waits in the event loop for the next request of a connection."""
        conn.init()
        unreader = conn.parser.unreader
        received = bytearray(unreader.read() if unreader.buf.getvalue() else b"")  # a part of a second request
        set_timeouts(conn.sock, RECEIVE_TIMEOUT, SEND_TIMEOUT)
        conn.sock.setblocking(False)
        self._incoming[conn.sock] = _Incoming(conn, time.monotonic() + HEADERS_TIMEOUT, received)
        self.poller.register(conn.sock, EVENT_READ, self._receive_headers)
        if END_OF_HEADERS in received:
            self._start(conn)
        elif len(self._incoming) > MAX_INCOMING:
            self._drop(next(iter(self._incoming.values())).connection)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answers a request after its headers were read. Runs in a thread."""
        is_closed = req.should_close
        req.should_close = lambda: is_closed() or _is_unread(req)  # asked before the answer's headers are sent
        if req.path in PUBLIC:
            return super().handle_request(req, conn)
        if not self._places.acquire(blocking=False):
            conn.sock.sendall(BUSY % (len(BUSY_BODY), BUSY_BODY))
            return False
        try:
            return super().handle_request(req, conn)
        finally:
            self._places.release()

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Takes a connection back from its thread."""
        if fs.cancelled() or fs.exception() or not fs.result():
            self._close(conn)
        else:
            super().finish_request(conn, fs)

    def notify(self) -> None:
        """Drops late connections. Runs at least once a second."""
        super().notify()
        now = time.monotonic()
        for incoming in list(self._incoming.values()):
            if self.alive and incoming.deadline > now:
                break
            self._drop(incoming.connection)
        for sock, deadline in list(self._lingering.items()):
            if deadline > now:
                break
            self._end(sock)

    def _receive_headers(self, sock: socket.socket) -> None:
        if sock not in self._incoming:  # dropped after the event
            return
        conn, _, received = self._incoming[sock]
        block = _receive(sock)
        if block is None:
            return
        begin = max(0, len(received) - len(END_OF_HEADERS))
        received += block
        if not begin:  # gunicorn skips empty lines before a request
            received[:] = received.lstrip(b"\r\n")
        if received.find(END_OF_HEADERS, begin) >= 0:
            self._start(conn)
        elif not block or len(received) > MAX_HEADERS_BYTES:
            self._drop(conn)

    def _start(self, conn: Any) -> None:
        """Hands a connection with complete headers to a thread."""
        self.poller.unregister(conn.sock)
        received = bytes(self._incoming.pop(conn.sock).received)
        unreader = conn.parser.unreader
        unreader.sock = _PacedSocket(conn.sock)
        unreader.unread(received)
        super().enqueue_req(conn)

    def _drop(self, conn: Any) -> None:
        """Closes a connection with incomplete headers."""
        self.poller.unregister(conn.sock)
        del self._incoming[conn.sock]
        self._close(conn)

    def _close(self, conn: Any) -> None:
        """Sends the end of the answer. The client then has some seconds to read it.

        A socket that is closed before everything was received resets the connection, and the answer is lost.
        """
        self.nr_conns -= 1
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # the client has closed it
            conn.sock.close()
            return
        self._lingering[conn.sock] = time.monotonic() + LINGER_SECONDS
        self.poller.register(conn.sock, EVENT_READ, self._discard)
        if len(self._lingering) > MAX_LINGERING:
            self._end(next(iter(self._lingering)))

    def _discard(self, sock: socket.socket) -> None:
        if sock in self._lingering and _receive(sock) == b"":
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        self.poller.unregister(sock)
        del self._lingering[sock]
        sock.close()


class _PacedSocket:
    """A socket for gunicorn that fails if a request arrives too slowly.

    Only the time that the server waits for the client counts.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._waited, self._received = sock, 0.0, 0

    def recv(self, size: int) -> bytes:
        """Receives at most ``size`` bytes. Raises TimeoutError for fewer than PACE_BYTES in PACE_SECONDS."""
        begin = time.monotonic()
        block = self._socket.recv(size)
        self._waited += time.monotonic() - begin
        self._received += len(block)
        if self._received >= PACE_BYTES:
            self._waited, self._received = 0.0, 0
        elif self._waited > PACE_SECONDS:
            raise TimeoutError("the request arrives too slowly")
        return block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _receive(sock: socket.socket) -> bytes | None:
    """Receives without waiting. Returns None if nothing has arrived, and no bytes if the connection has ended."""
    try:
        return sock.recv(BLOCK_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _is_unread(request: Any) -> bool:
    """Returns True if a part of the request's body was not read."""
    reader = request.body.reader
    return getattr(reader, "length", 0) > 0 or getattr(reader, "parser", None) is not None


def set_timeouts(connection: socket.socket, receive: float, send: float) -> None:
    """Sets the seconds after which receiving or sending fails if no byte was transferred.

    Without them, a few clients that stall in the middle of a request or an answer would occupy all threads for minutes.
    ``connection.settimeout`` does not fit: it limits the duration of a whole send, and gunicorn resets it.
    """
    for option, seconds in ((socket.SO_RCVTIMEO, receive), (socket.SO_SNDTIMEO, send)):
        with suppress(OSError):  # systems with another form of this option
            duration = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, option, duration)
