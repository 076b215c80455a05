"""Latency of previews and clicks in the web demo while other sessions track, and how fast these track meanwhile.

    python bench/serve_latency.py nano mini --tracks 0 1 4   # results/serve-latency-cpu-DATE.json

`sam2fast serve` runs as a process with a synthetic video of 480x320. Each tracking session tracks it to its end again
and again. One more session does what a user does on a frame: the pointer enters it, moves, and clicks. The first
preview on a frame computes its embedding, the others and the click use it. Frames are taken in random order.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from itertools import islice, takewhile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from reports import write_report
from suite.machine import RESULTS, machine

from sam2fast.demo.server.gallery import HEIGHT, RATE, WIDTH, still_life
from sam2fast.demo.server.video_files import DemoVideoWriter

FRAMES, ROUNDS, MOVES = 24, 12, 6
START = "mutation($i: StartSessionInput!){startSession(input: $i){sessionId}}"
ADD = "mutation($i: AddPointsInput!){addPoints(input: $i){rleMaskList{objectId rleMask{counts}}}}"


class Client:
    """A session on the video of a server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.session = self.mutate(START, path="gallery/clip.mp4")["sessionId"]

    def post(self, path: str, body: Any) -> Any:
        request = Request(self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return urlopen(request, timeout=300)

    def mutate(self, query: str, **fields: Any) -> Any:
        with self.post("/graphql", {"query": query, "variables": {"i": fields}}) as answer:
            return next(iter(json.load(answer)["data"].values()))

    def preview(self, frame: int, point: Sequence[float]) -> None:
        clicks = {"objectId": 1, "frameIndex": frame, "points": [point], "labels": [1]}
        self.post(f"/api/sessions/{self.session}/preview", clicks).read()

    def click(self, frame: int, point: Sequence[float]) -> None:
        clicks = {"objectId": 1, "frameIndex": frame, "points": [point], "labels": [1], "clearOldPoints": True}
        self.mutate(ADD, sessionId=self.session, **clicks)

    def track(self) -> Iterator[None]:
        """Yields at each tracked frame; a generator that is closed ends the track."""
        with self.post("/propagate_in_video", {"session_id": self.session}) as answer:
            yield from (None for line in answer if line.startswith(b"Content-Length"))


@contextmanager
def serving(model: str, data: Path) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-c", "from sam2fast.cli import main; main()", "serve", "--model", model]
    with subprocess.Popen([*command, "--data", str(data), "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        finally:
            server.terminate()


def measure(url: str, tracks: int) -> dict[str, Any]:
    """Seconds of each request while so many sessions track."""
    stop, started, frames = threading.Event(), threading.Barrier(tracks + 1), []

    def track() -> None:
        client = Client(url)
        client.click(0, (0.26, 0.62))
        started.wait()
        while not stop.is_set():
            with closing(client.track()) as track:
                frames.extend(takewhile(lambda _: not stop.is_set(), track))

    threads = [threading.Thread(target=track) for _ in range(tracks)]
    for thread in threads:
        thread.start()
    client, times = Client(url), {"first": [], "preview": [], "click": []}
    chance = np.random.default_rng(0)
    started.wait()
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        frame = int(chance.integers(FRAMES))
        points = chance.uniform(0.1, 0.9, (MOVES + 1, 2)).tolist()
        times["first"].append(seconds(client.preview, frame, points[0]))
        times["preview"] += [seconds(client.preview, frame, point) for point in points[1:]]
        times["click"].append(seconds(client.click, frame, points[-1]))
    rate = round(len(frames) / (time.perf_counter() - begin), 2) if tracks else None
    stop.set()
    for thread in threads:
        thread.join()
    row: dict[str, Any] = {"tracks": tracks, "frames_per_s": rate}
    for name, samples in times.items():
        ranks = statistics.quantiles(samples, n=20, method="inclusive")
        row |= {f"{name}_p50_s": round(statistics.median(samples), 4), f"{name}_p95_s": round(ranks[-1], 4)}
        row[f"{name}_samples_s"] = [round(sample, 4) for sample in samples]
    return row


def seconds(call: Callable[..., None], *arguments: Any) -> float:
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tracks", type=int, nargs="+", default=[0, 1, 4])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "gallery"
        gallery.mkdir()
        with DemoVideoWriter(gallery / "clip.mp4", HEIGHT, WIDTH, Fraction(RATE)) as video:
            for image in islice(still_life(), FRAMES):
                video.add(image)
        for model in options.models:
            with serving(model, Path(folder)) as url:
                for tracks in options.tracks:
                    rows.append({"model": model, **measure(url, tracks)})
                    print({name: value for name, value in rows[-1].items() if "samples" not in name}, flush=True)
    content = {"frames": FRAMES, "frame": [HEIGHT, WIDTH], "rounds": ROUNDS, "moves": MOVES, "rows": rows}
    print(write_report(RESULTS / "deployment", "serve-latency-cpu", machine=machine("cpu"), **content))


if __name__ == "__main__":
    main()
