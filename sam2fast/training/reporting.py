"""Reports of a training run as JSON lines and TensorBoard events."""

import json
import logging
from pathlib import Path

from sam2fast.io.atomic import annotate_oserror, atomic_path, remove_leftovers

_log = logging.getLogger(__name__)


class Reporter:
    """Writes ``metrics.jsonl`` and, with ``tensorboard``, TensorBoard events to a folder.

    Args:
        resumed_at: Step from which a run resumes. Lines of later steps are removed from ``metrics.jsonl``. If
            ``resumed_at`` is None, all lines are kept.
        is_validated: If False, removes the validation line of step ``resumed_at``, because the run repeats this
            validation.

    Raises:
        ImportError: If ``tensorboard`` is True and TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path, resumed_at: int | None = 0, tensorboard: bool = True, is_validated: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            self._keep_lines(resumed_at, is_validated)
        self._events = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "tensorboard=true needs the package tensorboard: pip install 'sam2fast[train]', "
                    "or set trainer.logging.tensorboard=false"
                ) from error
            # Hides steps after ``resumed_at`` in existing event files.
            purge_step = None if resumed_at is None else resumed_at + 1
            with annotate_oserror(folder / "tensorboard"):
                self._events = SummaryWriter(folder / "tensorboard", purge_step=purge_step)

    def report(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Writes one report with ``step``, ``kind`` (such as ``train``) and the values."""
        with annotate_oserror(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._events is not None:
            with annotate_oserror(self._path.with_name("tensorboard")):
                for name, value in values.items():
                    self._events.add_scalar(f"{kind}/{name}", value, step)
                self._events.flush()  # raises errors that occurred in the writer's thread

    def _keep_lines(self, resumed_at: int | None, is_validated: bool) -> None:
        """Removes lines of steps after ``resumed_at`` and an incomplete last line."""
        path, kept = self._path, []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                report = json.loads(line)
                step, is_pending = report["step"], report.get("kind") == "val" and not is_validated
                if resumed_at is None or step < resumed_at or (step == resumed_at and not is_pending):
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                _log.warning("%s: removed a line that is not a report", path)
        remove_leftovers([path])
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
