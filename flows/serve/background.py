"""One piece of long work at a time, in a thread of its own, with its progress."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Thread

from pipeline.errors import AnomalysmithError, UserError

_LOG = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside the work when somebody wants it to end."""


@dataclass(slots=True)
class Job:
    """What runs, and how far it is. `owner` is the product that it is about."""

    owner: str
    title: str
    step: str = "loading the models"
    done: int = 0
    total: int = 0
    running: bool = True
    error: str = ""
    cancelled: bool = False

    def at(self, step: str, done: int, total: int) -> None:
        """Report the progress from inside the work; ends it when it was cancelled."""
        if self.cancelled:
            raise Cancelled
        self.step, self.done, self.total = step, done, total


class Background:
    """The one job of the server; the last one of each owner is remembered."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()

    def start(self, owner: str, title: str, work: Callable[[Job], None]) -> Job:
        """Run `work` in the background; UserError while another one runs."""
        with self._lock:
            if busy := next((job for job in self._jobs.values() if job.running), None):
                raise UserError(
                    f"{busy.title} of {busy.owner} is running; wait for it, or end it on its page"
                )
            job = self._jobs[owner] = Job(owner, title)
        # It ends with the server: what is half done is on no disk.
        Thread(target=_run, args=(job, work), name=title, daemon=True).start()
        return job

    def of(self, owner: str) -> Job | None:
        """The job that runs for an owner or that ran last."""
        return self._jobs.get(owner)

    def cancel(self, owner: str) -> None:
        """Ask the job of an owner to end; it does so after the image that it is at."""
        if job := self._jobs.get(owner):
            job.cancelled = True


def _run(job: Job, work: Callable[[Job], None]) -> None:
    try:
        work(job)
    except Cancelled:
        job.error = "ended before it was done"
    except AnomalysmithError as error:
        job.error = str(error)
    except Exception:
        # A bug of ours must not leave a page that waits for ever.
        _LOG.exception("%s of %s", job.title, job.owner)
        job.error = "an error of this program; the terminal of the server shows it"
    finally:
        job.running = False
