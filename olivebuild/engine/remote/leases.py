"""Leases of keys in a remote cache, as a build sees them: of many machines one makes a result."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from enum import StrEnum

from olivebuild.engine.remote.process import Transfer, TransferProcess

FIRST_WAIT, LONGEST_WAIT = 1.0, 10.0
"""How many seconds pass until it is asked again whether another machine is done."""
GROWTH = 1.5


class Claim(StrEnum):
    """What became of a lease (ml/transfer/claims/claims.py)."""

    HELD = "held"
    ELSEWHERE = "elsewhere"
    MADE = "made"
    UNKEPT = "unkept"


class KeyLeases:
    """The leases of one build. `tell` is called once where there are none to be had."""

    def __init__(self, process: TransferProcess, tell: Callable[[str], None]) -> None:
        self._process = process
        self._tell = tell
        self._held: set[str] = set()
        self._next: dict[str, tuple[float, float]] = {}
        """Key that another machine makes -> (when to ask again, after how long then)."""
        self._is_told = False

    def waits(self, key: str) -> bool:
        """Return whether another machine makes a key's result, and is not to be asked yet."""
        when, _ = self._next.get(key, (0.0, FIRST_WAIT))
        return time.monotonic() < when

    def take(self, keys: Iterable[str]) -> dict[str, Claim]:
        """Try to be the machine that makes the results of keys; return what became of each.

        All are asked for at once. A remote cache that can't say keeps nobody waiting: then the
        answer is UNKEPT.
        """
        claims = dict.fromkeys(keys, Claim.UNKEPT)
        for key in claims:
            if key in self._held:
                claims[key] = Claim.HELD
            elif self.waits(key):
                claims[key] = Claim.ELSEWHERE
        unasked = [key for key, claim in claims.items() if claim is Claim.UNKEPT]
        if unasked:
            answers = {answer.key: answer for answer in self._process.ask("lease", unasked)}
            for key in unasked:
                claims[key] = self._taken(answers.get(key, Transfer(key=key)))
        return claims

    def _taken(self, answer: Transfer) -> Claim:
        key = answer.key
        claim = Claim(answer.lease) if answer.lease in set(Claim) else Claim.UNKEPT
        _, wait = self._next.pop(key, (0.0, FIRST_WAIT))
        if claim is Claim.ELSEWHERE:
            # Many that began to wait at once need not ask at once.
            pause = wait * random.uniform(0.7, 1.3)  # noqa: S311
            self._next[key] = (time.monotonic() + pause, min(wait * GROWTH, LONGEST_WAIT))
        elif claim is Claim.HELD:
            self._held.add(key)
        elif claim is Claim.UNKEPT and not self._process.fault:
            self.tell_unkept(answer.error)
        return claim

    def hand_over(self, key: str) -> None:
        """Leave a lease to the upload of its result, which gives it back when it has arrived."""
        self._held.discard(key)

    def release(self, key: str) -> None:
        """Give back a lease that nothing was made of."""
        if key in self._held:
            self._held.discard(key)
            self._process.tell("release", [key])

    def tell_unkept(self, error: str = "") -> None:
        """Tell once that nothing keeps machines apart."""
        if not self._is_told:
            self._is_told = True
            why = error or "the store ignores If-None-Match"
            self._tell(f"several machines may make the same result at once: {why}")
