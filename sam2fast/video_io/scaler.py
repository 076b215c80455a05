"""Decoded frames to square RGB pixels, exactly as the reader of the original makes them."""

import math
from fractions import Fraction
from itertools import pairwise
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


class Scaler:
    """Turns frames upright and resizes them by swscale's bilinear filter, bit for bit as decord does.

    Args:
        size: side S of the square.
        turn: see :func:`clockwise_turn`.
    """

    def __init__(self, size: int, turn: int) -> None:
        self._size, self._turn = size, turn
        self._kind: tuple[int, int, str] | None = None
        self._graph = Graph()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8 RGB."""
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            self._graph = self._build(frame)
            self._kind = kind
        self._graph.push(frame)
        return torch.from_numpy(np.array(self._graph.pull().to_ndarray()))

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        # None of these filters looks at times, but a unit of time is asked for.
        unit = Fraction(1)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
        turns = [graph.add("transpose", direction) for direction in TURNS.get(self._turn, [])]
        # Not swscale's own default, bicubic: filters had another default when decord was built.
        scale = graph.add("scale", f"{self._size}:{self._size}:flags=bilinear")
        for one, next_one in pairwise([source, *turns, scale, graph.add("format", "rgb24"), graph.add("buffersink")]):
            one.link_to(next_one)
        graph.configure()
        return graph
