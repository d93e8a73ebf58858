"""The line in front of the model process: its length, its order, and who leaves it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from olivebuild.core.errors import StepError
from olivebuild.executors.model_process import Talker
from olivebuild.server.desk import Desk, Job
from olivebuild.server.errors import ApiError


class Process:
    """What a desk sees of a model process: each answer is a piece, and more when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stops = 0
        self.go_on = threading.Event()
        self.is_gone = False
        self.end = threading.Event()

    def wait(self) -> StepError:
        self.end.wait()
        return StepError("the process ended", hint="")

    def events(self, **question: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(question["name"])
        if self.is_gone:
            raise StepError("the process ended", hint="")
        yield {"event": "begun"}
        assert self.go_on.wait(10)
        yield {"event": "end"}

    def stop(self) -> None:
        self.stops += 1
        self.go_on.set()


def desk_of(process: Process, most: int, ended: list[bool]) -> Desk:
    return Desk(cast("Talker", process), most, lambda: ended.append(True))


async def told(job: Job) -> str:
    return str((await asyncio.wait_for(job.next(), 10))["event"])


def test_a_full_line_is_told_and_the_rest_are_answered_in_order() -> None:
    async def run() -> None:
        process = Process()
        desk = desk_of(process, 2, [])
        first, second = desk.join({"name": "a"}), desk.join({"name": "b"})
        assert await told(first) == "begun"
        with pytest.raises(ApiError) as caught:
            desk.join({"name": "c"})
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
        process.go_on.set()
        assert [await told(first), await told(second), await told(second)] == [
            "end",
            "begun",
            "end",
        ]
        assert process.asked == ["a", "b"]

    asyncio.run(run())


def test_who_leaves_is_answered_no_further() -> None:
    async def run() -> None:
        process = Process()
        desk = desk_of(process, 3, [])
        first, second, third = (desk.join({"name": name}) for name in "abc")
        assert await told(first) == "begun"
        desk.leave(second)
        assert process.stops == 0
        desk.leave(first)
        assert process.stops
        assert await told(third) == "begun"
        stops = process.stops
        # An answer that is over is no longer one to stop.
        desk.leave(first)
        assert process.stops == stops
        assert process.asked == ["a", "c"]

    asyncio.run(run())


def test_a_line_that_closes_tells_those_that_wait() -> None:
    async def run() -> None:
        process = Process()
        desk = desk_of(process, 3, [])
        first, second = desk.join({"name": "a"}), desk.join({"name": "b"})
        assert await told(first) == "begun"
        desk.close()
        assert await told(second) == "closed"
        with pytest.raises(ApiError, match="ending"):
            desk.join({"name": "c"})
        process.go_on.set()
        assert await told(first) == "end"

    asyncio.run(run())


def test_a_process_that_ends_is_told_to_all() -> None:
    async def run() -> None:
        process, ended = Process(), list[bool]()
        process.is_gone = True
        desk = desk_of(process, 3, ended)
        job = desk.join({"name": "a"})
        assert await told(job) == "failed"
        while not ended:
            await asyncio.sleep(0.01)
        assert isinstance(desk.error, StepError)
        with pytest.raises(ApiError):
            desk.join({"name": "b"})

    asyncio.run(run())


def test_a_process_that_ends_while_nobody_asks_is_noticed() -> None:
    async def run() -> None:
        process, ended = Process(), list[bool]()
        desk = desk_of(process, 3, ended)
        process.end.set()
        while not ended:
            await asyncio.sleep(0.01)
        assert isinstance(desk.error, StepError)
        with pytest.raises(ApiError):
            desk.join({"name": "a"})

    asyncio.run(run())


def test_a_process_that_is_ended_with_its_server_is_no_error() -> None:
    async def run() -> None:
        process, ended = Process(), list[bool]()
        desk = desk_of(process, 3, ended)
        desk.close()
        process.end.set()
        await asyncio.sleep(0.05)
        assert (desk.error, ended) == (None, [])

    asyncio.run(run())


def test_who_was_told_the_end_may_ask_at_once() -> None:
    class Lingering(Process):
        rest = threading.Event()

        def events(self, **question: Any) -> Iterator[dict[str, Any]]:
            yield {"event": "end"}
            assert self.rest.wait(10)

    async def run() -> None:
        process = Lingering()
        desk = desk_of(process, 1, [])
        assert await told(desk.join({})) == "end"
        second = desk.join({})
        process.rest.set()
        assert await told(second) == "end"

    asyncio.run(run())


def test_a_fault_of_the_servers_own_is_told_and_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    class Faulty(Process):
        def events(self, **question: Any) -> Iterator[dict[str, Any]]:
            yield {"event": "begun"}
            raise KeyError("event")

    async def run() -> None:
        ended = list[bool]()
        desk = desk_of(Faulty(), 3, ended)
        first, second = desk.join({}), desk.join({})
        assert [await told(first), await told(first)] == ["begun", "failed"]
        assert await told(second) == "closed"
        assert isinstance(desk.error, StepError)
        assert "KeyError" in desk.error.fact
        assert ended == [True]
        with pytest.raises(ApiError):
            desk.join({})

    asyncio.run(run())
    assert "KeyError" in capsys.readouterr().err


def test_a_server_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(threading.Condition):
        """Gives other threads time after each locked block."""

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            time.sleep(0.02)

    async def run() -> None:
        process, ended = Process(), list[bool]()
        process.is_gone = True
        desk = desk_of(process, 3, ended)
        job = desk.join({"name": "a"})
        process.end.set()
        assert await told(job) == "failed"
        await asyncio.sleep(0.2)
        assert ended == [True]

    monkeypatch.setattr(threading, "Condition", Slow)
    asyncio.run(run())
