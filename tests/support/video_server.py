"""A server for one video in another process: ``python video_server.py FILE`` prints its address.

``/most`` stops after nine tenths, ``/endless`` repeats a JPEG image, ``/cut`` stops that, ``/stalls``
pauses that, ``/silent`` never answers.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Video(BaseHTTPRequestHandler):
    data = b""

    def do_GET(self) -> None:
        if self.path in ("/video", "/most"):
            self._head("application/octet-stream", len(self.data))
            self.wfile.write(self.data if self.path == "/video" else self.data[: len(self.data) * 9 // 10])
        elif self.path in ("/endless", "/cut", "/stalls"):
            self._head("multipart/x-mixed-replace;boundary=ffmpeg")
            self._show(last=None if self.path == "/endless" else 40)
        elif self.path == "/silent":
            time.sleep(60)
        else:
            self.send_error(404)

    def _head(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _show(self, last: int | None) -> None:
        head = b"--ffmpeg\r\nContent-type: image/jpeg\r\nContent-length: %d\r\n\r\n" % len(self.data)
        count = 0
        try:
            while count != last:
                self.wfile.write(head + self.data + b"\r\n")
                count += 1
            if self.path == "/stalls":
                time.sleep(60)
            self.wfile.write(head + self.data[: len(self.data) // 2])
        except OSError:  # nobody looks on
            pass

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    Video.data = Path(sys.argv[1]).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Video)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
