"""Decoded frames to square RGB pixels, exactly as the reader of the original makes them."""

import math
from fractions import Fraction
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
from av import VideoFrame
from av.filter import Graph
from torch import Tensor

# Filters that turn a picture clockwise by degrees.
TURNS = {90: ["1"], 180: ["1", "1"], 270: ["2"]}


def clockwise_turn(frame: VideoFrame) -> int:
    """Degrees by which a file asks for its frames to be turned: 0, 90, 180 or 270; others are ignored."""
    side_data: Any = frame.side_data  # not what PyAV's types say
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0
    cosine, sine = np.frombuffer(bytes(matrix), dtype=np.int32)[:2]
    turn = round(math.degrees(math.atan2(sine, cosine))) % 360
    return turn if turn in TURNS else 0


def upright_size(frame: VideoFrame, turn: int) -> tuple[int, int]:
    """Height and width of a frame once it is turned."""
    return (frame.width, frame.height) if turn in (90, 270) else (frame.height, frame.width)


class Scaler:
    """Turns frames upright and resizes them by swscale's bilinear filter, bit for bit as decord does.

    Safe from several threads, as a stream's frames are converted where they are used.

    Args:
        size: side S of the square; None keeps each frame's own size.
        turn: see :func:`clockwise_turn`.
    """

    def __init__(self, size: int | None, turn: int) -> None:
        self._scale = "iw:ih" if size is None else f"{size}:{size}"
        self._turn = turn
        self._lock = Lock()
        self._kind: tuple[int, int, str] | None = None
        self._graph = Graph()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8 RGB."""
        kind = (frame.width, frame.height, frame.format.name)
        with self._lock:
            if kind != self._kind:
                self._graph = self._build(frame)
                self._kind = kind
            self._graph.push(frame)
            scaled = self._graph.pull()
        return torch.from_numpy(np.array(scaled.to_ndarray()))

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        # None of these filters looks at times, but a unit of time is asked for.
        unit = Fraction(1)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
        turns = [graph.add("transpose", direction) for direction in TURNS.get(self._turn, [])]
        # Not swscale's own default, bicubic: filters had another default when decord was built.
        scale = graph.add("scale", f"{self._scale}:flags=bilinear")
        for one, next_one in pairwise([source, *turns, scale, graph.add("format", "rgb24"), graph.add("buffersink")]):
            one.link_to(next_one)
        graph.configure()
        return graph
