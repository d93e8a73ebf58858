"""Portable actions: what a site has to know of an action, with no path of the sender's.

Inputs and files are manifests and blobs. What comes out is told in the same way.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, json, structs

from olivebuild.api.site import Needs
from olivebuild.cache.manifest import Digest, Entry, Manifest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.core.values.strict_json import decode

PROTOCOL = 1
OptionalDigest = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$")]
NOTHING = "0" * 32


class PortableInput(Struct, frozen=True, kw_only=True):
    """An input: a folder by its manifest, and the file or folder in it that the edge names."""

    kind: str
    target: str
    source: str = ""
    trust_remote_code: bool = False
    digest: OptionalDigest = ""
    manifest: OptionalDigest = ""
    """The folder that is put in place; "" where tensors are read from the store alone."""
    path: str = "."
    """Below the folder."""
    stored: OptionalDigest = ""
    """The manifest that the step reads tensors by, as its action has it."""


class PortableAsked(Struct, frozen=True, kw_only=True):
    """Rows that will be asked: a file of a folder."""

    target: str
    file: Entry
    new_tokens: int
    whole: bool


class PortableAction(Struct, frozen=True, kw_only=True):
    """An action that can travel."""

    protocol: int
    code: str
    """The stamp of the sender's code; see about.py."""
    key: Digest
    node: str
    target: str
    kind: str
    runner: str
    fields: dict[str, Any]
    inputs: dict[str, PortableInput]
    files: dict[str, list[str]]
    """label -> names below the recipe's folder."""
    folder: tuple[Entry, ...]
    """The files of the recipe's folder that it reads."""
    asked: tuple[PortableAsked, ...] = ()
    pin: str = ""
    sha256: dict[str, str] = {}
    places: dict[str, list[Any]] = {}
    gpus: int = 0
    threads: int = 0
    publish: bool = True
    consumers: list[list[Any]] = []
    template_date: str = ""
    needs: Needs = Needs()
    libraries: dict[str, str] = {}
    variables: dict[str, str] = {}
    numerics: dict[str, str] = {}
    """Those that the key holds, where it does."""
    settings: dict[str, str] = {}
    """Variables of the sender's environment by which libraries compute otherwise."""
    blobs: tuple[RemoteBlob, ...] = ()
    """All that the manifests and files above are made of, the manifests too."""

    def with_gpu(self) -> PortableAction:
        """Return it as it runs where there are GPUs: on one, unless the recipe says how many."""
        if self.needs.gpus or not self.gpus:
            return self
        return structs.replace(self, needs=self.needs._replace(gpus=1))

    def to_json(self) -> str:
        # In its order: that of a benchmark's models has a meaning.
        return json.encode(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> PortableAction:
        """Raises ValueError for any other text, and for names that leave the recipe's folder."""
        action = decode(text, PortableAction)
        if action.protocol != PROTOCOL:
            raise ValueError(f"protocol {action.protocol}, here {PROTOCOL}")
        checked(action.folder)
        for asked in action.asked:
            checked((asked.file,))
        for source in action.inputs.values():
            if source.path != ".":
                checked((Entry(source.path, executable=False, size=0, digest=NOTHING),))
        names = {entry.name for entry in action.folder}
        if not names.issuperset(name for group in action.files.values() for name in group):
            raise ValueError("a file that does not travel")
        return action


class PortableOutcome(Struct, frozen=True, kw_only=True):
    """How a job ended: a result, or an error."""

    key: Digest
    seconds: float = 0.0
    peak_rss: int = 0
    numerics: dict[str, str] = {}
    error: dict[str, Any] | None = None
    """As BuildError.to_json has it."""
    lost: tuple[Digest, ...] = ()
    """The inputs that were not whole: to be sent again."""
    digests: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    manifest: OptionalDigest = ""
    """Of the output folder."""
    is_stored: bool = False
    """The step stored the manifest itself, and wrote no files."""
    blobs: tuple[RemoteBlob, ...] = ()
    """What the manifest is made of, itself too, but for what it borrows from inputs or computes."""

    def to_json(self) -> str:
        # In its order: that of a benchmark's models has a meaning.
        return json.encode(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> PortableOutcome:
        """Raises ValueError for any other text."""
        return decode(text, PortableOutcome)


def checked(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return files of a folder. Raises ValueError for names that leave it."""
    return Manifest.from_json(Manifest(entries).to_json().encode()).files
