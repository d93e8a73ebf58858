"""The courier of a site: a thread that sends actions, follows jobs and brings results back."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import ValidationError, to_builtins

from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.site import JobState, SiteRequirements
from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError, Damaged, StepError, first_line, of_disk
from olivebuild.core.text import aside
from olivebuild.core.values.typed import convert
from olivebuild.executors.site import about
from olivebuild.executors.site.connection import Connection
from olivebuild.executors.site.delivery import send, take_in
from olivebuild.executors.site.link import Closed, Link
from olivebuild.executors.site.packing import Packer
from olivebuild.executors.site.portable import PortableAction, PortableOutcome

FOLLOW_SECONDS = 0.5
"""How long an agent waits for news. What starts meanwhile waits as long."""
END_SECONDS = 10.0
"""How long an answer is waited for at the end of a build."""
TRIES, IDLE_TRIES = 3, 20
"""How often a job is started whose node is lost: while it works, and while it waits."""
OF_THE_ENGINE = {"plan", "started", "restored", "finished", "failed", "stopping", "waiting", "done"}
"""Events that no step may send."""
LOOK_SECONDS = 0.2
MOST_LINE = 1 << 20
SHOWN_BYTES = 2_000_000
"""From how many on their way is told."""


class RemoteJob:
    """An action on its way, or at work, on a site."""

    def __init__(self, action: Action, log: Path) -> None:
        self.action = action
        self.log = log
        self.portable: PortableAction | None = None
        self.of_events = 0
        """Bytes of its events that were read."""
        self.of_log = 0
        self.has_worked = False
        """It has said something since it was submitted."""
        self.tries = 0
        self.idle_tries = 0
        self.not_before = 0.0
        """When it may be started again, by the monotonic clock."""
        self.told = ""
        """What was last told of its wait."""

    @property
    def key(self) -> str:
        return self.action.key


class Courier:
    """Talks to one site. `put` takes messages and outcomes, from another thread."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        words: Sequence[str],
        put: Callable[[Message | Outcome], None],
    ) -> None:
        self.name = name
        self._put = put
        self._link = Link(connection, words, self._tell_all)
        self._new: queue.SimpleQueue[RemoteJob | None] = queue.SimpleQueue()
        self._jobs: dict[str, RemoteJob] = {}
        """Those that are at the site, by key."""
        self._over: list[str] = []
        """Keys of those whose outcome was taken in."""
        self._packer: Packer | None = None
        self._about: about.About | None = None
        self._thread: threading.Thread | None = None
        self._last_follow = 0.0
        self.is_moving = False
        """Blobs are on their way."""
        self.is_held = False
        """No results are to be brought now: something is timed on this machine."""

    # From the build's thread

    def refusals(self, wanted: Mapping[str, SiteRequirements]) -> dict[str, BuildError]:
        """Return the nodes that can't be made there, and why."""
        try:
            self._about = self._link.hello(
                sorted({name for each in wanted.values() for name in each.libraries})
            )
            answers = {
                needs: str(
                    self._link.call("refusal", {"needs": to_builtins(needs)}).data["refusal"]
                )
                for needs in {each.needs for each in wanted.values()}
            }
        except BuildError as e:
            return dict.fromkeys(wanted, e)
        refused: dict[str, BuildError] = {}
        for node, each in wanted.items():
            if fault := self._fault(each):
                refused[node] = fault
            elif why := answers[each.needs]:
                refused[node] = StepError(
                    f"{self._link.label} can't run it: {why}",
                    hint="`resources:` of the target says what it takes",
                )
        return refused

    def _fault(self, wanted: SiteRequirements) -> StepError | None:
        assert self._about
        # Of the processor alone: variables travel, and threads are those of the node.
        numerics = {n: wanted.numerics[n] for n in ("processor", "library") if n in wanted.numerics}
        return about.check(
            self._link.label,
            self._about,
            code=about.code(),
            libraries=wanted.libraries,
            numerics=numerics,
        )

    def start(self, job: RemoteJob) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._new.put(job)

    def close(self) -> None:
        """Cancel what runs, have forgotten there what was taken in, and end the connection."""
        if self._thread:
            self._link.stop()
            self._new.put(None)
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                # A connection that is dead says nothing.
                self._link.abort()
                self._thread.join()
            self._thread = None
        for key, job in self._jobs.items():
            if not self._link.last("cancel", {"key": key}):
                aside(
                    f"{self._link.label} is not reached: {job.action.target} goes on there, and "
                    "the next build picks it up"
                )
        for key in self._over:
            self._link.last("done", {"key": key})
        self._jobs.clear()
        self._over.clear()
        self._new = queue.SimpleQueue()
        self._link.close()
        self._link.reopen()

    # The courier's thread

    def _work(self) -> None:
        while True:
            with contextlib.suppress(Closed):
                if not self._take_new():
                    return
                if self._jobs:
                    self._follow(FOLLOW_SECONDS)

    def _take_new(self) -> bool:
        """Begin what is new, after waiting for it where nothing runs; False at the end."""
        while True:
            try:
                job = self._new.get(block=not self._jobs)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._guarded(job, self._begin)

    def _guarded(self, job: RemoteJob, work: Callable[[RemoteJob], None]) -> None:
        """Do something for a job; what goes wrong is its outcome."""
        try:
            work(job)
            return
        except Closed:
            raise
        except BuildError as e:
            error = e
        except Damaged as e:
            error = StepError(f"an input in the cache is not whole: {e}", hint="build again")
        except OSError as e:
            error = of_disk(e, job.action.target)
        except Exception as e:  # noqa: BLE001
            # Answers come from another machine, and a thread has nobody to raise to.
            error = StepError(
                f"{self._link.label} answered what makes no sense: {first_line(e)}",
                hint="is its olivebuild the same as here?",
            )
        self._end(job, Outcome(job.action.node, 0.0, error=error))

    def _begin(self, job: RemoteJob) -> None:
        if self._packer is None:
            self._packer = Packer(Store(Path(job.action.store)))
        portable = self._packer.pack(job.action)
        if self._about is None:
            self._about = self._link.hello(portable.libraries)
        job.portable = portable.with_gpu() if self._about.gpus else portable
        self._jobs[job.key] = job
        self._submit(job)

    def _submit(self, job: RemoteJob) -> None:
        """Send what the site lacks, and start the job; or find it at work."""
        assert job.portable
        assert self._packer
        with self._moving():
            places = self._packer.places
            send(job.portable, places, self._link, partial(self._moved, job, "sending"))
        again = job.tries + job.idle_tries > 0
        data = {"action": to_builtins(job.portable), "again": again}
        answer = self._link.call("submit", data).data
        job.has_worked = False
        if answer["began"] == "picked up":
            self._note(job, f"picked up where it is on {self._link.label}")
        elif answer.get("failed") and not again:
            self._note(
                job,
                f"it had failed on {self._link.label} while nobody listened, and is made again: "
                f"{answer['failed']}",
            )

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        self.is_moving = True
        try:
            yield
        finally:
            self.is_moving = False

    def _moved(self, job: RemoteJob, what: str, done: int, total: int) -> None:
        """Tell how many bytes were moved, if many, and look after the other jobs meanwhile."""
        if total > SHOWN_BYTES:
            figures = {"done": round(done / 1e6, 1), "total": round(total / 1e6, 1)}
            self._say(job, "progress", what=f"{what} MB", **figures)
        if time.monotonic() - self._last_follow > 1 and len(self._jobs) > 1:
            self._follow(0.0, apart=job)

    def _follow(self, seconds: float, apart: RemoteJob | None = None) -> None:
        """Take in what is new of all jobs that were submitted."""
        self._last_follow = time.monotonic()
        jobs = {key: job for key, job in self._jobs.items() if job is not apart}
        offsets = {key: [job.of_events, job.of_log] for key, job in jobs.items()}
        if not offsets:
            return
        try:
            answer = self._link.call("follow", {"jobs": offsets, "seconds": seconds})
        except BuildError as e:
            for job in jobs.values():
                self._end(job, Outcome(job.action.node, 0.0, error=e))
            return
        rest = answer.blob
        for key, news in answer.data["jobs"].items():
            if key in jobs:
                events, log = int(news["events"]), int(news["log"])
                texts = rest[:events], rest[events : events + log]
                rest = rest[events + log :]
                self._guarded(jobs[key], partial(self._news, news, *texts))

    def _news(self, news: Mapping[str, Any], events: bytes, log: bytes, job: RemoteJob) -> None:
        """Take in what is new of a job."""
        job.of_events += len(events)
        job.of_log += len(log)
        if log:
            with open(job.log, "ab") as f:
                f.write(log)
        for line in events.splitlines():
            self._pass_on(job, line)
        if events or log:
            job.has_worked |= bool(events)
            return
        if error := news.get("error"):
            raise BuildError.from_json(error, job.action.target)
        state = JobState(news["state"])
        if news.get("outcome") and self.is_held:
            # An agent answers at once where a job has ended.
            self._link.wait(LOOK_SECONDS)
        elif news.get("outcome"):
            self._take_in(job)
        elif state is JobState.ENDED:
            self._ended(job, stopped=bool(news.get("stopped")), ending=str(news.get("ending", "")))
        elif state is JobState.LOST:
            self._lost(job, str(news.get("ending", "")))
        elif state is JobState.QUEUED:
            self._tell_wait(job, str(news.get("ending", "")))

    def _pass_on(self, job: RemoteJob, line: bytes) -> None:
        """Hand on what a step said."""
        if len(line) > MOST_LINE:
            return
        try:
            data = json.loads(line)
            event = data.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return
        if isinstance(event, str) and event not in OF_THE_ENGINE:
            self._say(job, event, **{k: v for k, v in data.items() if k not in RESERVED})

    def _tell_wait(self, job: RemoteJob, ending: str) -> None:
        text = f"waiting on {self._link.label}" + (f": {ending}" if ending else "")
        if text != job.told:
            job.told = text
            self._note(job, text)

    def _ended(self, job: RemoteJob, *, stopped: bool, ending: str) -> None:
        """Raises StepError for a job that has ended and says nothing of it."""
        target, label = job.action.target, self._link.label
        what = "was stopped" if stopped else "has ended without a result"
        raise StepError(
            f"{target} {what} on {label}" + (f" ({ending})" if ending else ""),
            hint=f"`olivebuild log {target}` shows its output; built again, a training goes on "
            "from where it was",
        )

    def _lost(self, job: RemoteJob, ending: str) -> None:
        """Start a job again that is gone; after a while, where it was not at work.

        Raises StepError for one that is lost again and again.
        """
        target, label = job.action.target, self._link.label
        now = time.monotonic()
        if now < job.not_before:
            # An agent answers at once where a job has ended.
            self._link.wait(LOOK_SECONDS)
            return
        why = f" ({ending})" if ending else ""
        if job.has_worked:
            job.tries += 1
        else:
            job.idle_tries += 1
            job.not_before = now + min(30.0, 2.0 ** (job.idle_tries - 1))
        if job.tries >= TRIES or job.idle_tries >= IDLE_TRIES:
            raise StepError(
                f"{target} was lost on {label} again and again{why}",
                hint=f"`olivebuild log {target}` shows its output",
            )
        if job.tries + job.idle_tries == 1 or job.has_worked:
            self._note(job, f"its process on {label} is lost{why}: it is started again")
        try:
            self._submit(job)
        except BuildError as e:
            # A scheduler that is started anew is away for a while.
            if job.idle_tries + 1 >= IDLE_TRIES:
                raise
            self._note(job, f"{label} can't start it now: {e.fact}")

    def _take_in(self, job: RemoteJob) -> None:
        """Bring the result of a job that has ended."""
        answer = self._link.call("outcome", {"key": job.key}).data["outcome"]
        try:
            told = convert(answer, PortableOutcome)
        except ValidationError as e:
            raise StepError(
                f"{self._link.label} told an outcome that is none: {first_line(e)}",
                hint="is its olivebuild the same as here?",
            ) from None
        if told.lost and job.idle_tries < IDLE_TRIES:
            job.idle_tries += 1
            self._note(job, f"inputs are damaged on {self._link.label}: they are sent again")
            self._submit(job)
            return
        with self._moving():
            moved = partial(self._moved, job, "fetching")
            outcome = take_in(job.action, told, self._link, moved)
        self._over.append(job.key)
        self._end(job, outcome)

    def _end(self, job: RemoteJob, outcome: Outcome) -> None:
        self._jobs.pop(job.key, None)
        self._put(outcome)

    def _note(self, job: RemoteJob, text: str) -> None:
        self._say(job, "note", text=text)

    def _tell_all(self, text: str) -> None:
        """Tell something of the site, once, where there is a job to tell it of."""
        for job in [*self._jobs.values()][:1]:
            self._note(job, text)

    def _say(self, job: RemoteJob, event: str, **data: object) -> None:
        self._put(Message(job.action.node, event, data))


RESERVED = ("target", "node", "name")
"""Names of data that the build gives to events itself."""
