"""A Ray to work with: one that is there, or one of our own for as long as it is needed."""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.deploy.ray.errors import ClusterError

LOCAL = "local"
# Of a Ray that we start. Jobs are names and results are run lengths; Ray itself would take a third of the memory.
STORE_BYTES = 256 * 2**20
SECONDS_TO_CONNECT = 10.0
# Only where we start it: nothing is reported to Ray's makers, and no advice on GPUs is printed.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_own_token: str | None = None  # one for this process, since Ray reads it once


class RayPlan(NamedTuple):
    """Which Ray, and what of it; see :func:`~sam2fast.deploy.ray.on_ray`."""

    address: str
    workers: int | None
    gpus: float | None
    cpus: int
    threads: int
    most_losses: int
    store_bytes: int
    temp_dir: Path | None


@contextmanager
def connected(plan: RayPlan) -> Iterator[Any]:
    """Ray's module, connected. What was connected before stays so, and is used whatever the address.

    Raises:
        ClusterError: Ray is not installed, is not there, or is another version.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    _redirect_news(ray)
    try:
        _check_head(plan.address)
        with _environment(QUIET | _token() if plan.address == LOCAL else {}):
            ray.init(**_options(plan))
    # SystemExit too: that is how Ray ends what it could not start.
    except (OSError, RuntimeError, ValueError, SystemExit, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise ClusterError(_why(plan.address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()  # of a cluster that was there before it ends the connection alone


def room(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """How many workers the living nodes can hold at once, if they have nothing else to do.

    Args:
        nodes: as ``ray.nodes()`` gives them.
    """
    count = 0
    for node in nodes:
        if node["Alive"]:
            there = node["Resources"]
            for_each = [there.get(name, 0.0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
            count += int(min(for_each))
    return count


def _ray() -> Any:
    global _own_token
    if "ray" not in sys.modules:  # which may have read another token already
        _own_token = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f'Ray cannot be loaded; pip install "sam2fast[cluster]" ({error})') from error
    return ray


def _token() -> dict[str, str]:
    """Our token of access to a Ray that we start, unless there is one; Ray would put its own into the home folder."""
    is_given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return {} if is_given or _own_token is None else {"RAY_AUTH_TOKEN": _own_token}


def _redirect_news(ray: Any) -> None:
    """Ray prints news of its machines, such as lost workers, to stdout, which is for results."""
    printer: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(printer, "print_to_stdstream"):  # not in every version
        printer.print_to_stdstream = _log_news


def _log_news(data: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
    for line in data.get("lines", ()):
        logging.getLogger("sam2fast.ray").info("%s", line)


def _check_head(address: str) -> None:
    """Raises OSError if nothing listens at a host and port, for which Ray would wait and wait."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()


def _options(plan: RayPlan) -> dict[str, Any]:
    options: dict[str, Any] = {"address": plan.address, "log_to_driver": False, "logging_level": logging.ERROR}
    if plan.address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": plan.store_bytes}
        if plan.workers is not None:
            options["num_cpus"] = plan.workers * plan.cpus
        if plan.temp_dir is not None:
            options["_temp_dir"] = str(plan.temp_dir)
    return options


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _why(address: str, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if "version mismatch" in reason.lower():
        return f"the Ray at {address} is another one than here; use the same Ray and Python on all machines: {reason}"
    if address == LOCAL:
        return f"no Ray could be started here: {reason}"
    return f"no Ray can be reached at {address}; expected local, auto, or HOST:PORT of a cluster's head: {reason}"
