"""Reports of a training run: lines of JSON and TensorBoard events."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import annotate_oserror, atomic_path

_log = logging.getLogger(__name__)


class Reporter:
    """Writes ``metrics.jsonl`` and, with ``tensorboard``, TensorBoard events.

    Args:
        folder: for the files; created if missing.
        resumed_at: the step from which a run resumes. Lines of later steps are removed, since they are written again.
            None keeps all lines.
        is_validated: whether validation results of that step are kept; otherwise the validation is repeated.

    Raises:
        ImportError: ``tensorboard`` is set, and TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path, resumed_at: int | None = 0, tensorboard: bool = True, is_validated: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"

        def is_kept(line: dict[str, Any]) -> bool:
            step = line["step"]
            is_pending = line.get("kind") == "val" and not is_validated
            return resumed_at is None or step < resumed_at or (step == resumed_at and not is_pending)

        _filter_lines(self._path, is_kept)
        self._events: EventFile | None = None
        if tensorboard:
            try:
                # Hides later steps in existing event files.
                self._events = EventFile(folder / "tensorboard", None if resumed_at is None else resumed_at + 1)
            except ImportError as error:
                raise ImportError(
                    "tensorboard=true needs the package tensorboard: pip install 'sam2fast[train]', "
                    "or set trainer.logging.tensorboard=false"
                ) from error

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Writes one line with ``step``, ``kind`` (such as ``train``) and the values."""
        with annotate_oserror(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._events is not None:
            self._events.add(step, {f"{kind}/{name}": value for name, value in values.items()})


def _filter_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Removes all other lines of the file, and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if is_kept(json.loads(line)):
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            _log.warning("%s: removed a line that is not a report", path)
    with atomic_path(path, path.with_name(f".{path.name}.tmp")) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


class EventFile:
    """A TensorBoard event file in the format of ``torch.utils.tensorboard.SummaryWriter``, written synchronously.

    SummaryWriter writes from a thread: errors, such as a full disk, are raised at a later report, and forked workers
    inherit its state.

    Args:
        folder: created if missing.
        purge_step: hides this and later steps in the folder's other files.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:010.0f}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
        first = [Event(wall_time=now, file_version="brain.Event:2")]
        if purge_step is not None:
            first.append(Event(wall_time=now, step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._append(first)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Adds scalars by name."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append([Event(wall_time=time.time(), step=step, summary=Summary(value=numbers))])

    def _append(self, events: list[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = BytesIO()
        for event in events:
            RecordWriter(records).write(event.SerializeToString())
        with annotate_oserror(self._path), self._path.open("ab") as file:
            file.write(records.getvalue())
