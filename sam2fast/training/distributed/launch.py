"""Starts the processes of a run on this machine and reports in one line why the processes ended."""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam2fast.utils.cores import available_cores
from sam2fast.utils.errors import FixableError

# Environment variable of started processes that names the folder for messages to the launcher.
LAUNCHED = "SAM2FAST_LAUNCHED"
LAUNCHER = "SAM2FAST_LAUNCHER"  # environment variable with the process id of the launcher
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
SECONDS_TO_MEET = 900  # timeout for the rendezvous of all machines
SECONDS_TO_SAVE = 600  # time after Ctrl-C until processes that still run are killed


class LaunchError(FixableError, RuntimeError):
    """Raised if a process of the run failed or was killed. The message names the failed process and the reason."""


def launch(
    arguments: Sequence[str], processes: int, restarts: int = 0, nodes: int = 1, rendezvous: str | None = None
) -> None:
    """Runs ``python ARGUMENTS`` in ``processes`` processes of this machine and waits until all processes end.

    Forwards Ctrl-C and SIGTERM once to all processes, so that the processes can save and exit. If a process fails, all
    processes are stopped. If the launching process is killed, started processes that call :func:`is_abandoned` can save
    and stop.

    Args:
        arguments: arguments of the Python interpreter.
        processes: number of processes on this machine.
        restarts: maximum number of times that all processes are restarted after a failure.
        nodes: number of machines of the run. This function must be called on each machine.
        rendezvous: address ``HOST:PORT`` with a free port of one of the machines; required for several machines.

    Raises:
        LaunchError: If a process failed and no restarts are left, a process did not stop in time, or the rendezvous
            failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # hides torch's long messages
            logging.getLogger(name).setLevel(logging.CRITICAL)
    host = (rendezvous or "127.0.0.1:0").rpartition(":")[0]
    is_loopback = host in ("localhost", "[::1]", "::1") or host.startswith("127.")
    # Divides the cores among the processes, unless the user has set the number of threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    # Makes a new rendezvous store at each restart, because a shared store may contain addresses of exited processes.
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
            # Uses the loopback address on one machine. If ``local_addr`` is None, torch uses the machine's name.
            local_addr="127.0.0.1" if is_loopback else None,
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise LaunchError(_reason(error.failures, processes * nodes)) from error
        except SignalException as error:
            if missing := processes - len(list(Path(folder).glob("ended-*"))):
                raise LaunchError(f"{missing} of {processes} processes did not stop cleanly") from error
        except RendezvousError as error:
            reason = str(error) or f"not all of them came in {SECONDS_TO_MEET} seconds"
            raise LaunchError(
                f"the {nodes} machines did not meet at {rendezvous}, or lost each other: {reason}"
            ) from error
        finally:
            del os.environ[LAUNCHED], os.environ[LAUNCHER]


def is_launched() -> bool:
    """Returns True if :func:`launch` started this process."""
    return LAUNCHED in os.environ


def is_abandoned() -> bool:
    """Returns True if :func:`launch` started this process and was killed later. Returns False on Windows."""
    # On Windows, the parent's process id never changes, and in a virtual environment the parent is not the launcher.
    return is_launched() and sys.platform != "win32" and os.getppid() != int(os.environ[LAUNCHER])


def ended() -> None:
    """Reports to :func:`launch` that this process ends without an error."""
    if is_launched():
        Path(os.environ[LAUNCHED], f"ended-{os.environ['RANK']}").touch()


def record(message: str, is_lost: bool) -> None:
    """Reports this process's error to :func:`launch`. ``is_lost`` is True if loss of another process is the cause."""
    content = {"message": message, "extraInfo": {"timestamp": 0, "lost": is_lost}}
    Path(os.environ[ERROR_FILE]).write_text(json.dumps({"message": content}), encoding="utf-8")


def _reason(failures: dict[int, Any], world_size: int) -> str:
    """Returns one reason for the failures of all ranks. Prefers errors that no other process's failure caused."""

    def weight(rank: int) -> tuple[bool, bool, int]:
        content = _reported_error(failures[rank])
        is_lost = content is not None and content["extraInfo"]["lost"]
        return is_lost, content is None and failures[rank].exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM), rank

    rank = min(failures, key=weight)
    failure, content = failures[rank], _reported_error(failures[rank])
    if content is not None:
        return str(content["message"])
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    return f"process {rank} of {world_size} {how}"


def _reported_error(failure: Any) -> dict[str, Any] | None:
    data = failure.error_file_data
    message = data.get("message") if isinstance(data, dict) else None
    return message if isinstance(message, dict) and isinstance(message.get("extraInfo"), dict) else None
