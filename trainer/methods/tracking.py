"""Sends a run's metrics to wandb too. A failure of wandb is reported and never ends the run, nor delays it for long.

wandb reads its user and server from its own environment: ``WANDB_API_KEY``, ``WANDB_BASE_URL``, ``WANDB_MODE``. It
receives the metrics by our names and the hyperparameters, nothing else of the machine or the rows.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from trainer.methods import peers
from trainer.methods.hyperparameters import Hyperparameters
from trainer.methods.progress import Reporter
from trainer.run_directory import RunDirectory, RunEvent

OPEN_S: Final = 60.0
"""How long wandb's server may take to answer for the first time; training goes on meanwhile."""
CLOSE_S: Final = 10.0
"""How long a run that has ended waits for metrics that are not sent yet."""


@contextmanager
def tracked(run: RunDirectory, numbers: Hyperparameters, reporter: Reporter) -> Iterator[None]:
    """Send the run's metrics to its job's integrations during the block; never raises."""
    integrations = run.integrations() if peers.is_first() else []
    trackers = [Tracker(run, integration["wandb"], numbers, reporter.report) for integration in integrations]
    for tracker in trackers:
        reporter.add_listener(tracker.enqueue)
    try:
        yield
    finally:
        for tracker in trackers:
            tracker.close()


class Tracker:
    """A run in wandb, sent on a thread of its own.

    Args:
        run: its name is the id in wandb, so that a run that goes on after a crash goes on there too.
        options: OpenAI's ``project``, and optionally ``name``, ``entity`` and ``tags``.
        numbers: shown beside the metrics.
        report: appends an event to the job, with the run's address in wandb or the reason of a failure.
    """

    def __init__(
        self,
        run: RunDirectory,
        options: Mapping[str, Any],
        numbers: Hyperparameters,
        report: Callable[[RunEvent], None],
    ) -> None:
        self._run = run
        self._options = options
        self._numbers = numbers
        self._report = report
        self._queue: SimpleQueue[RunEvent | None] = SimpleQueue()
        self._sending = ThreadPoolExecutor(1).submit(self._send)
        self._sending.add_done_callback(self._report_failure)

    def enqueue(self, event: RunEvent) -> None:
        self._queue.put(event)

    def close(self) -> None:
        """Wait up to ``CLOSE_S`` until all events are sent."""
        self._queue.put(None)
        if not wait([self._sending], CLOSE_S).done:
            self._report(
                RunEvent(message="wandb did not take all of the metrics in time; the job ends without it", level="warn")
            )

    def _send(self) -> None:
        session = self._open()
        self._report_address(session.url)
        while (event := self._queue.get()) is not None:
            step = event.data.get("step", 0)
            if event.type == "metrics" and step >= session.starting_step:
                session.log({name: value for name, value in event.data.items() if name != "step"}, step=step)
        session.finish()

    def _open(self) -> Any:
        import wandb  # it may not be installed, and takes a second

        spec = self._run.spec()
        folder = self._run.scratch / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._options["project"],
            entity=self._options.get("entity"),
            name=self._options.get("name", self._run.path.name),
            tags=self._options.get("tags"),
            id=self._run.path.name,
            resume="allow",
            reinit="create_new",
            dir=folder,
            config={**asdict(self._numbers), "method": spec.method, "base": spec.base.name, "seed": spec.seed},
            settings=_settings(wandb, folder),
        )

    def _report_address(self, url: str | None) -> None:
        if {"tracked": "wandb", "url": url} not in [earlier.data for earlier in self._run.events()]:
            where = f"at {url}" if url is not None else "offline, with the run"
            self._report(RunEvent(message=f"wandb keeps the metrics {where}", data={"tracked": "wandb", "url": url}))

    def _report_failure(self, sending: Future[None]) -> None:
        error = sending.exception()
        if isinstance(error, ModuleNotFoundError):
            reason = f"{error.name} is not installed where jobs are trained; patchbay's extra 'wandb' has it"
        elif error is not None:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            return
        self._report(
            RunEvent(message=f"wandb does not take the metrics, and the job goes on without: {reason}", level="warn")
        )


def _settings(wandb: Any, folder: Path) -> Any:
    """Return settings by which wandb collects no code, console or machine data and waits for nothing long."""
    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        finish_timeout=CLOSE_S,
        host="patchbay",
        init_timeout=OPEN_S,
        save_code=False,
        silent=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        root_dir=str(folder),
    )
