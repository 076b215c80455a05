"""What a run says: one line of JSON per report, TensorBoard where it is installed, a bar on the console."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import errors_named, moved_to
from sam2fast.training.event_file import EventFile

_log = logging.getLogger(__name__)


class Reporter:
    """Writes ``metrics.jsonl`` and, if asked and installed, TensorBoard events.

    Args:
        folder: where they go; made if missing.
        resumed_at: the step a run goes on from. Lines of later steps are dropped: they are written again. None to keep
            them all.
        is_validated: whether what was validated at that step stays, too; otherwise that is done again.

    Raises:
        ImportError: TensorBoard was asked for and is not installed.
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

        _keep(self._path, is_kept)
        self._events: EventFile | None = None
        if tensorboard:
            try:
                # What others have of later steps is not shown any more.
                self._events = EventFile(folder / "tensorboard", None if resumed_at is None else resumed_at + 1)
            except ImportError as error:
                raise ImportError(
                    "tensorboard=true needs the package tensorboard: pip install 'sam2fast[train]', "
                    "or set trainer.logging.tensorboard=false"
                ) from error

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line with ``step``, ``kind`` (such as ``train``) and the values."""
        with errors_named(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._events is not None:
            self._events.add(step, {f"{kind}/{name}": value for name, value in values.items()})


class SilentReporter:
    """Writes nothing: for all processes of a run but the first."""

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Nothing."""


def _keep(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Removes other lines, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if is_kept(json.loads(line)):
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            _log.warning("%s: a line that is no report was dropped", path)
    with moved_to(path, path.with_name(f".{path.name}.tmp")) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
