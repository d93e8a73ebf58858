"""What a client of a remote cache says to others: I make this, I upload this, I have used this."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from olivebuild.core.errors import BuildError
from olivebuild.ml.transfer.claims.heartbeats import Heartbeats, duration
from olivebuild.ml.transfer.claims.leases import Leases, lease_of
from olivebuild.ml.transfer.claims.uploading import UploadMarks
from olivebuild.ml.transfer.claims.uses import Uses
from olivebuild.ml.transfer.remote import Remote

HELD, ELSEWHERE, MADE, UNKEPT = "held", "elsewhere", "made", "unkept"


class Claims:
    """The claims of one process."""

    def __init__(
        self,
        remote: Remote,
        root: Path,
        usable: Callable[[str], str],
        wait: Callable[[], None],
    ) -> None:
        """`root` is the folder of this machine's cache.

        `usable` returns what names the result of a key that this process would use, or "".

        `wait` is called again and again while an upload waits for a sweep. Raises InputError for a
        bad duration in the environment.
        """
        seconds = duration()
        heartbeats = Heartbeats(remote, seconds) if seconds else Heartbeats(remote)
        self._is_on = seconds > 0 and not remote.read_only
        self._usable = usable
        self._heartbeats = heartbeats
        self._leases = Leases(remote, heartbeats)
        self._uploads = UploadMarks(remote, heartbeats, self._leases, wait)
        self._uses = Uses(remote, heartbeats, root)
        self._refused: dict[str, str] = {}
        """Key -> the name of a result that turned out to be no use."""

    def lease(self, key: str) -> str:
        """Try to be the one that makes the result of a key.

        Return HELD (also where leases are switched off), ELSEWHERE where another makes it, MADE
        where another has made it meanwhile, or UNKEPT where the store keeps no leases.
        """
        if not self._is_on:
            return HELD
        is_held = self._leases.take(lease_of(key))
        if self._is_made(key):
            self.release(key)
            return MADE
        if not is_held:
            return ELSEWHERE
        return HELD if self._leases.are_kept else UNKEPT

    def release(self, key: str) -> None:
        self._leases.release(lease_of(key))

    def upload(self, key: str, blobs: Iterable[str]) -> AbstractContextManager[Callable[[], None]]:
        """Claim blobs for an upload; see UploadMarks.one."""
        return self._uploads.one(key, blobs)

    @property
    def are_kept(self) -> bool:
        """False where the store has been seen to make again what is there."""
        return self._leases.are_kept

    def use(self, key: str) -> None:
        self._uses.note(key)

    def refuse(self, key: str, name: str) -> None:
        """Remember that a result of a key is no use, so that nobody waits for it."""
        self._refused[key] = name

    def close(self) -> None:
        """Give all back."""
        self._uses.close()
        self._leases.close()
        self._heartbeats.close()

    def _is_made(self, key: str) -> bool:
        try:
            name = self._usable(key)
        except BuildError:
            return False
        return bool(name) and name != self._refused.get(key)
