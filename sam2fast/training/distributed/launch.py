"""Starts the processes of a run on this machine, and says in one line why they ended."""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Tells a process that this module has started it and speaks for it: a folder for what it leaves.
LAUNCHED = "SAM2FAST_LAUNCHED"
LAUNCHER = "SAM2FAST_LAUNCHER"  # its process, to see whether it is still there
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
SECONDS_TO_MEET = 900  # of machines
SECONDS_TO_SAVE = 600  # after Ctrl-C, before processes that do not end are killed


class LaunchError(RuntimeError):
    """A process of the run failed or was killed; the message says which, and why."""


def launch(
    arguments: Sequence[str], processes: int, restarts: int = 0, nodes: int = 1, rendezvous: str | None = None
) -> None:
    """Runs ``python ARGUMENTS`` in so many processes of this machine, which find each other, and waits for them.

    Ctrl-C and SIGTERM are passed on to all of them, once, and they are given time to end; what they did is as good as
    if they had come to their end. When one fails, the others are ended. When this process is killed, those that ask
    :func:`is_abandoned` save and stop.

    Args:
        restarts: how often all processes are started again after one failed.
        nodes: how many machines do the same at the same time; their processes are one run.
        rendezvous: ``HOST:PORT`` where the machines meet, a free port of one of them; for several alone.

    Raises:
        LaunchError: a process failed, and there are no restarts left; or did not stop when it was told to; or the
            machines did not meet.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _be_quiet()
    # Otherwise each process would take all cores. An entry that is there is the user's.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    # Each start in a place of its own: torch's launcher keeps one for all, where a process that comes first finds the
    # addresses of those that are gone.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with tempfile.TemporaryDirectory(prefix="sam2fast-") as folder:
        os.environ[LAUNCHED], os.environ[LAUNCHER] = folder, str(os.getpid())
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=processes,
            run_id="sam2fast",
            rdzv_backend="c10d",
            rdzv_endpoint=rendezvous or "127.0.0.1:0",
            rdzv_configs={"join_timeout": SECONDS_TO_MEET},
            # The name of this machine, unless it needs none.
            local_addr="127.0.0.1" if rendezvous is None or _is_loopback(rendezvous) else None,
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise LaunchError(_reason(error.failures, processes * nodes)) from error
        except SignalException as error:
            if missing := processes - len(list(Path(folder).glob("ended-*"))):
                raise LaunchError(f"told to stop, {missing} of {processes} processes did not in good order") from error
        except RendezvousError as error:
            reason = str(error) or f"not all of them came in {SECONDS_TO_MEET} seconds"
            raise LaunchError(
                f"the {nodes} machines did not meet at {rendezvous}, or lost each other: {reason}"
            ) from error
        finally:
            del os.environ[LAUNCHED], os.environ[LAUNCHER]


def is_launched() -> bool:
    """Whether :func:`launch` has started this process."""
    return LAUNCHED in os.environ


def is_abandoned() -> bool:
    """Whether :func:`launch` has started this process and was killed since, so that nobody can stop it any more.

    Never on Windows, where a process keeps the number of its parent, which in a virtual environment is another one's.
    """
    return is_launched() and sys.platform != "win32" and os.getppid() != int(os.environ[LAUNCHER])


def ended() -> None:
    """Leaves word for :func:`launch` that this process comes to its end as it should."""
    if is_launched():
        Path(os.environ[LAUNCHED], f"ended-{os.environ['RANK']}").touch()


def record(message: str, is_lost: bool) -> None:
    """Leaves word of what went wrong in this process for :func:`launch` to tell.

    Args:
        is_lost: it is that another process ended, which is not what began it.
    """
    said = {"message": message, "extraInfo": {"timestamp": 0, "lost": is_lost}}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps({"message": said}), encoding="utf-8")


def _is_loopback(rendezvous: str) -> bool:
    host = rendezvous.rpartition(":")[0]
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")


def _reason(failures: dict[int, Any], world_size: int) -> str:
    """What began it: not that a process lost another, and not that it was ended because of another.

    Args:
        failures: of processes of this machine, by their number in the run.
    """

    def weight(rank: int) -> tuple[bool, bool, int]:
        said = _said(failures[rank])
        is_lost = said is not None and said["extraInfo"]["lost"]
        return is_lost, said is None and failures[rank].exitcode == -signal.SIGTERM, rank

    rank = min(failures, key=weight)
    failure, said = failures[rank], _said(failures[rank])
    if said is not None:
        return str(said["message"])
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    return f"process {rank} of {world_size} {how}"


def _said(failure: Any) -> dict[str, Any] | None:
    data = failure.error_file_data
    message = data.get("message") if isinstance(data, dict) else None
    return message if isinstance(message, dict) and isinstance(message.get("extraInfo"), dict) else None


def _be_quiet() -> None:
    """Torch's launcher logs what is told here in one line."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
