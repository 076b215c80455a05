"""Connects to a running Ray, or starts Ray on this machine."""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.deploy.parallel.process import WorkerError

LOCAL = "local"
# Size of Ray's object store if Ray is started on this machine. Jobs and results are small.
STORE_BYTES = 256 * 2**20
SECONDS_TO_CONNECT = 10.0
# Environment variables if Ray is started on this machine: no usage statistics, and no warning about GPU variables.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_auth_token: str | None = None  # token for Ray; does not change within a process, because Ray reads the token once


class ClusterError(WorkerError):
    """Raised if the cluster is not reachable, has another version, or has no node on which a worker fits."""


class RayPlan(NamedTuple):
    """Options of :func:`~sam2fast.deploy.ray.on_ray`."""

    address: str
    workers: int | None
    gpus: float | None
    cpus: int
    threads: int
    store_bytes: int
    temp_dir: Path | None


@contextmanager
def connected(plan: RayPlan) -> Iterator[Any]:
    """Yields the connected ``ray`` module. If the process is already connected, uses and keeps the connection.

    Raises:
        ClusterError: If Ray is not installed, is not reachable, or has another version.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    printer: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(printer, "print_to_stdstream"):  # some versions of Ray print messages to stdout, among the results
        printer.print_to_stdstream = _log_message
    options: dict[str, Any] = {"address": plan.address, "log_to_driver": False, "logging_level": logging.ERROR}
    if plan.address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": plan.store_bytes}
        if plan.workers is not None:
            options["num_cpus"] = plan.workers * plan.cpus
        if plan.temp_dir is not None:
            options["_temp_dir"] = str(plan.temp_dir)
    try:
        host, colon, port = plan.address.rpartition(":")
        if colon and port.isdecimal():  # if no server listens at the address, Ray would wait for a long time
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
        # Sets a token if the environment has no token. Without a token, Ray would store one in the home folder.
        has_token = _auth_token is None or any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        variables = QUIET | ({} if has_token else {"RAY_AUTH_TOKEN": str(_auth_token)})
        with _environment(variables if plan.address == LOCAL else {}):
            ray.init(**options)
    # Ray raises SystemExit if it cannot start.
    except (OSError, RuntimeError, ValueError, SystemExit, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise ClusterError(_why(plan.address, error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()  # ends a Ray that was started on this machine; a cluster continues after the disconnection


def room(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """Returns the number of workers that fit on ``nodes`` (``ray.nodes()``). Assumes that all nodes are idle."""
    count = 0
    for node in nodes:
        if node["Alive"]:
            resources = node["Resources"]
            for_each = [resources.get(name, 0.0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
            count += int(min(for_each))
    return count


def _ray() -> Any:
    global _auth_token
    if "ray" not in sys.modules:  # Ray reads the token when it is imported
        _auth_token = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f'Ray cannot be loaded; pip install "sam2fast[cluster]" ({error})') from error
    return ray


def _log_message(data: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
    """Logs messages of Ray, such as messages about lost workers."""
    for line in data.get("lines", ()):
        logging.getLogger("sam2fast.ray").info("%s", line)


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
        return f"the Ray at {address} has another version; use the same Ray and Python on all machines: {reason}"
    if address == LOCAL:
        return f"no Ray could be started here: {reason}"
    return f"no Ray can be reached at {address}; expected local, auto, or HOST:PORT of a cluster's head: {reason}"
