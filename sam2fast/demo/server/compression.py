"""Compresses text for clients that accept it."""

import gzip

from flask import Flask, Response, request

from sam2fast.demo.server.settings import MEBIBYTE

TYPES = ("text/", "application/json", "image/svg+xml")
SMALLEST, LARGEST = 1024, 4 * MEBIBYTE  # bytes; what is larger would be held in memory
LEVEL = 6


def compress_answers(app: Flask) -> None:
    """Sends text of moderate length as gzip; the stream of masks is sent as it comes."""

    @app.after_request
    def compress(response: Response) -> Response:
        if not (response.mimetype or "").startswith(TYPES):
            return response
        response.headers.add("Vary", "Accept-Encoding")
        length = response.content_length
        fits = length is not None and SMALLEST <= length <= LARGEST
        if fits and response.status_code == 200 and "gzip" in request.accept_encodings:
            response.direct_passthrough = False
            response.set_data(gzip.compress(response.get_data(), LEVEL, mtime=0))
            response.headers["Content-Encoding"] = "gzip"
        return response
