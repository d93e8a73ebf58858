"""What a worker does with a source, one call each."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.formats.source import Source
from olivebuild.ml.models import fetch


class Asking:
    """A target `rows` of a recipe, and its pin."""

    def __init__(self, folder: Path, source: str, kind: str = "dataset") -> None:
        self.folder, self.source, self.kind = folder, Source.parse(source), kind
        self.pinned = ""
        self.sha256: dict[str, str] = {}
        self.said = io.StringIO()

    def job(self) -> Job:
        out = self.folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        place: dict[str, list[object]] = {"": ["olivebuild.yaml", 2, 5, ""]}
        fields: dict[str, object] = {"source": self.source.text}
        action = Action(
            "rows",
            "rows",
            self.kind,
            "",
            fields,
            {},
            {},
            str(self.folder),
            str(out),
            store=str(self.folder / "cache"),
            pin=self.pinned,
            sha256=self.sha256,
            places=place,
        )
        return Job(action, self.said)

    def pin(self) -> str:
        self.pinned = fetch.pin(self.job(), self.source)
        return self.pinned

    def fetch(self) -> Path:
        return fetch.fetch(self.job(), self.source, dataset=self.kind == "dataset")

    def error(self, call: Callable[[], Any]) -> InputError:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value.where) == "olivebuild.yaml:2:5"
        assert caught.value.hint
        return caught.value

    def files(self) -> dict[str, bytes]:
        folder = self.fetch()
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
