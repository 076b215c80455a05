"""Reports for TensorBoard, which are on the disk as soon as they are made."""

import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import errors_named


class EventFile:
    """A new file of events in a folder, as ``torch.utils.tensorboard.SummaryWriter`` writes them.

    That one writes from a thread of its own. There an error, such as a full disk, is printed with its traceback, and
    raised at some later report; and processes that are forked to make batches get a copy of whatever it is amid.

    Args:
        folder: made if missing.
        purge_step: what the folder's other files have of this step and later ones is not shown any more.

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
        """Adds numbers by their names."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append([Event(wall_time=time.time(), step=step, summary=Summary(value=numbers))])

    def _append(self, events: list[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = BytesIO()
        for event in events:
            RecordWriter(records).write(event.SerializeToString())
        with errors_named(self._path), self._path.open("ab") as file:
            file.write(records.getvalue())
