"""A progress bar for long work."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DELAY = 1.0
"""Seconds of work before the bar is shown."""


class Bar:
    """A bar on stderr, only on a terminal, shown once the work inside takes a second.

    Called with (done, total) it shows the progress, and where `unit` names what is
    counted, both numbers; until then it only moves.
    """

    def __init__(self, text: str, unit: str = "") -> None:
        self._text = text
        self._unit = unit
        self._state: tuple[int, int | None] = (0, None)
        self._shown: tuple[Progress, TaskID] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(DELAY, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._timer.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            self._state = (done, total)
            if self._shown:
                progress, task = self._shown
                progress.update(task, completed=done, total=total)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._shown:
                self._shown[0].stop()

    def _show(self) -> None:
        # Imported here: rich takes longer to load than most conversions take.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        counts: tuple[ProgressColumn, ...] = ()
        if self._unit == "bytes":
            counts = (DownloadColumn(),)
        elif self._unit:
            counts = (MofNCompleteColumn(), TextColumn(self._unit))
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            *counts,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        with self._lock:
            if self._closed:
                return
            done, total = self._state
            self._shown = (
                progress,
                progress.add_task(self._text, completed=done, total=total),
            )
            progress.start()


@contextmanager
def uncollected() -> Iterator[None]:
    """Disables the garbage collector: importing, tracing and compiling leave few
    cycles, and the search for them takes a sixth of the time of a short command."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # existing objects need not be searched at the end
            gc.enable()
