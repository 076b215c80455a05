"""The other end of a FIFO, in a thread that keeps no test from ending if this end is never opened."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

SECONDS = 20


def reader(pipe: Path) -> Callable[[], bytes]:
    """Reads a FIFO to its end; the function returned waits for that and gives what came."""
    came: list[bytes] = []
    thread = Thread(target=lambda: came.append(pipe.read_bytes()), daemon=True)
    thread.start()

    def result() -> bytes:
        thread.join(SECONDS)
        assert came, f"{pipe} was not written and closed"
        return came[0]

    return result
