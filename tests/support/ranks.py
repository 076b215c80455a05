"""Several training processes, forked from one that has loaded everything."""

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

SECONDS = 600  # until a test gives up
PRELOADED = ["rank_jobs", "rank_warmth"]


def in_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What an importable function returns in each process of a group, if there are several; or its traceback."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    _start_server()
    # As torchrun does: they meet here, at a port that nobody else can take in the meantime.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    connections, processes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        job = (_place(rank, count, store.port), theirs, sys.path, function, arguments)
        process = context.Process(target=_run, args=job, daemon=True)
        process.start()
        theirs.close()
        connections.append(ours)
        processes.append(process)
    try:
        return _answers(connections)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _place(rank: int, count: int, port: int) -> dict[str, str]:
    if count == 1:
        return {}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()} | {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _start_server() -> None:
    """The process that ranks are forked from, unless it runs; by itself it does not find the modules to load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def _answers(connections: list[Connection]) -> list[Any]:
    """In whatever order they come: a process that cannot send its own yet may be what another one waits for."""
    answers: dict[Any, Any] = {}
    while len(answers) < len(connections):
        ready = wait([connection for connection in connections if connection not in answers], SECONDS)
        assert ready, "no answer"
        for connection in ready:
            done, value = pickle.loads(connection.recv_bytes())
            assert done, value
            answers[connection] = value
    return [answers[connection] for connection in connections]


def _run(place: dict[str, str], connection: Connection, path: list[str], function: Any, arguments: Any) -> None:
    sys.path[:] = path
    os.environ.update(place)
    try:
        answer = True, function(*arguments)
    except BaseException:
        answer = False, traceback.format_exc()
    connection.send_bytes(pickle.dumps(answer))
