"""The line in front of the model process: its length, its order, and who leaves it."""

from __future__ import annotations

import asyncio
import threading
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
