"""The web demo's server under load: sessions at once, clicks while they track, and its memory after many sessions.

    python bench/serve_load.py --sessions 1 4 16 --frames 48 --closed 100 --out bench/results

A server of its own runs on the loopback address, as `sam2fast serve` starts it. Every session is a thread that clicks
on a disc of a drawn film, tracks the film to its end, and counts the frames that come. Meanwhile one more session
clicks here and there, all the time, and its answers are timed. Then so many sessions are opened, clicked in, tracked to
their ends and closed one after the other; memory is what the system says is resident in the process that serves.

The exit code is 1, and no file is written, if a session or a click has failed or a track was not whole.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from reports import write_report
from side_by_side import machine

from sam2fast.demo.server.film_writer import FilmWriter

HEIGHT, WIDTH, RATE = 240, 320, 24
START = "mutation($i:StartSessionInput!){startSession(input:$i){sessionId}}"
ADD = "mutation($i:AddPointsInput!){addPoints(input:$i){rleMaskList{rleMask{counts}}}}"
CLOSE = "mutation($i:CloseSessionInput!){closeSession(input:$i){success}}"
MEMORY_EVERY = 10
PATIENCE = 3600  # seconds


def write_film(path: Path, frames: int) -> None:
    """A disc that circles over a texture."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = (np.sin(x / 9 + y / 7), np.cos(x / 5 - y / 11), np.sin(y / 6))
    ground = (np.stack(waves, axis=-1) * 50 + 120).astype(np.uint8)
    path.parent.mkdir(parents=True)
    with FilmWriter(path, HEIGHT, WIDTH, Fraction(RATE)) as film:
        for frame in range(frames):
            picture = ground.copy()
            cx, cy = disc(frame)
            picture[(y - cy) ** 2 + (x - cx) ** 2 < 25**2] = (230, 60, 40)
            film.add(picture)


def disc(frame: int) -> tuple[float, float]:
    """Its middle, in pixels."""
    return WIDTH / 2 + 80 * np.cos(frame / 30), HEIGHT / 2 + 60 * np.sin(frame / 30)


class Client:
    """Asks a server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def mutate(self, query: str, **fields: Any) -> Any:
        with self.post("/graphql", {"query": query, "variables": {"i": fields}}) as answer:
            body = json.load(answer)
        if "errors" in body:
            raise RuntimeError(body["errors"][0]["message"])
        return next(iter(body["data"].values()))

    def start(self) -> str:
        return self.mutate(START, path="gallery/film.mp4")["sessionId"]

    def click(self, session: str, frame: int) -> None:
        x, y = disc(frame)
        point = {"points": [[x / WIDTH, y / HEIGHT]], "labels": [1], "clearOldPoints": True, "objectId": 1}
        self.mutate(ADD, sessionId=session, frameIndex=frame, **point)

    def track(self, session: str) -> int:
        """How many frames come."""
        count, kept = 0, b""
        with self.post("/propagate_in_video", {"session_id": session, "direction": "forward"}) as stream:
            while block := stream.read1(1 << 16):
                kept += block
                count += kept.count(b"--frame\r\n")
                kept = kept[-8:] if b"--frame\r\n" not in kept[-8:] else b""
        return count

    def close(self, session: str) -> None:
        self.mutate(CLOSE, sessionId=session)


@contextmanager
def serving(data: Path, most: int, options: Sequence[str]) -> Any:
    """The process that was started, and where it listens."""
    command = [sys.executable, "-m", "sam2fast", "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(
        [*command, "--max-sessions", str(most), *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if " at http://" in line)
            yield process.pid, line.partition(" at ")[2].partition(",")[0]
        finally:
            process.terminate()


def resident_mib(parent: int) -> float:
    """Of the process that serves, which is the only child of the one that was started."""
    child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    status = Path(f"/proc/{child}/status").read_text()
    return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024, 1)


def together(client: Client, sessions: int, frames: int) -> dict[str, Any]:
    """So many sessions at once, and one that clicks meanwhile."""
    done: list[tuple[int, float]] = []
    failures: list[str] = []
    latencies: list[float] = []
    over = threading.Event()

    def work() -> None:
        try:
            session = client.start()
            client.click(session, 0)
            begun = time.perf_counter()
            done.append((client.track(session), time.perf_counter() - begun))
            client.close(session)
        except Exception as error:
            failures.append(str(error))

    def click() -> None:
        try:
            session, rng = client.start(), np.random.default_rng(0)
            while not over.is_set():
                begun = time.perf_counter()
                client.click(session, int(rng.integers(frames)))
                latencies.append(time.perf_counter() - begun)
            client.close(session)
        except Exception as error:
            failures.append(f"the one that clicks: {error}")

    clicking = threading.Thread(target=click)
    workers = [threading.Thread(target=work) for _ in range(sessions)]
    begun = time.perf_counter()
    for thread in (*workers, clicking):
        thread.start()
    for thread in workers:
        thread.join()
    seconds = time.perf_counter() - begun
    over.set()
    clicking.join()
    return {
        "sessions": sessions,
        "complete": sum(count == frames for count, _ in done),
        "failures": failures,
        "seconds": round(seconds, 2),
        "frames_per_s": round(sum(count for count, _ in done) / seconds, 2),
        "clicks": len(latencies),
        "click_p50_s": _percentile(latencies, 50),
        "click_p95_s": _percentile(latencies, 95),
        "click_samples_s": [round(value, 4) for value in latencies],
    }


def _percentile(samples: Sequence[float], share: int) -> float | None:
    return round(float(np.percentile(samples, share)), 3) if samples else None


def one_after_the_other(client: Client, count: int, frames: int, parent: int) -> dict[int, float]:
    """Resident memory by how many sessions there have been, MiB.

    Raises:
        RuntimeError: a track was not whole.
    """
    memory = {0: resident_mib(parent)}
    for number in range(1, count + 1):
        session = client.start()
        client.click(session, 0)
        come = client.track(session)
        if come != frames:
            raise RuntimeError(f"{come} frames of {frames} came in session {number}")
        client.close(session)
        if number % MEMORY_EVERY == 0 or number == count:
            memory[number] = resident_mib(parent)
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--closed", type=int, default=100, help="sessions one after the other")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": machine(), "model": arguments.model, "device": arguments.device,
        "frames": arguments.frames, "frame": [HEIGHT, WIDTH],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_film(data / "gallery/film.mp4", arguments.frames)
        options = ["--model", arguments.model, "--device", arguments.device]
        with serving(data, max(arguments.sessions) + 1, options) as (parent, url):
            client = Client(url)
            together(client, 1, arguments.frames)  # a warm-up
            report["together"] = [together(client, count, arguments.frames) for count in arguments.sessions]
            report["resident_mib"] = one_after_the_other(client, arguments.closed, arguments.frames, parent)
    for row in report["together"]:
        print(
            f"{row['sessions']} sessions: {row['complete']} complete, {row['frames_per_s']} frames/s in all; "
            f"{row['clicks']} clicks meanwhile, p50 {row['click_p50_s']} s, p95 {row['click_p95_s']} s"
        )
        for failure in row["failures"]:
            print(f"  failed: {failure}")
    if any(row["failures"] or row["complete"] < row["sessions"] for row in report["together"]):
        sys.exit(1)
    memory = report["resident_mib"]
    print(f"resident: {memory[0]} MiB before, {memory[arguments.closed]} MiB after {arguments.closed} sessions")
    if arguments.out:
        kind = "cpu" if arguments.device in ("auto", "cpu") else arguments.device.partition(":")[0]
        write_report(arguments.out, f"serve-load-{kind}", **report)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
