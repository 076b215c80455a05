"""Reports of a training run: lines of JSON and TensorBoard events."""

import json
import logging
from collections.abc import Callable
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
        self._events = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "tensorboard=true needs the package tensorboard: pip install 'sam2fast[train]', "
                    "or set trainer.logging.tensorboard=false"
                ) from error
            # Hides later steps in existing event files.
            purge_step = None if resumed_at is None else resumed_at + 1
            with annotate_oserror(folder / "tensorboard"):
                self._events = SummaryWriter(folder / "tensorboard", purge_step=purge_step)

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Writes one line with ``step``, ``kind`` (such as ``train``) and the values."""
        with annotate_oserror(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._events is not None:
            with annotate_oserror(self._path.with_name("tensorboard")):
                for name, value in values.items():
                    self._events.add_scalar(f"{kind}/{name}", value, step)
                self._events.flush()  # also raises the errors of the writer's thread


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
