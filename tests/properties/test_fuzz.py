"""Whatever a recipe, a trace, a manifest or another file that is read may hold: one error of ours
or none, in time, and nothing written elsewhere.

OLIVEBUILD_FUZZ multiplies the number of cases, OLIVEBUILD_SEED draws others.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from olivebuild import snapshot
from olivebuild.api.action import Action, Message, Outcome
from olivebuild.api.executor import Requirements
from olivebuild.cache import tensor_locations
from olivebuild.cache.index import JsonDisk
from olivebuild.core import hashing
from olivebuild.core.errors import BuildError, StepError
from olivebuild.core.journal import Journal
from olivebuild.data.readers import read_file
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.builder import Builder
from olivebuild.engine.history import History
from olivebuild.formats.safetensors import parse_header
from olivebuild.planner import node_db
from olivebuild.planner.plan import FrozenNodeChanged, Plan
from olivebuild.planner.project import open_changed, open_graph, open_project
from olivebuild.recipe.file import FILE_NAME
from olivebuild.recipe.lockfile import Lockfile
from olivebuild.ui import console, graph_text
from tests import conftest
from tests.conftest import Place
from tests.support.faults import Builds, Pipeline, amount, chance_of, quick_folder
from tests.support.fuzzing import Guard, Mutator, survives

pytestmark = [
    pytest.mark.skipif(
        not hasattr(os, "fork"), reason="needs a timer's signal, and starts builds by forks"
    ),
    pytest.mark.timeout(7200),
]
ROOT = Path(__file__).parents[2]
TIMES = amount("FUZZ", 1)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[[BuildError], str]:
    """An error as it is printed."""
    stream = io.StringIO()
    monkeypatch.setattr(
        console,
        "Folding",
        lambda **more: Console(file=stream, **{k: v for k, v in more.items() if k != "stderr"}),
    )

    def shown(error: BuildError) -> str:
        stream.seek(0)
        stream.truncate()
        console.show_error(error)
        return stream.getvalue()

    return shown


def recipes() -> list[bytes]:
    """Recipes of ours, and those in the tests' sources and in what is written for users."""
    found = [p.read_bytes() for p in sorted(ROOT.glob(f"recipes/*/{FILE_NAME}"))]
    found += [conftest.RECIPE.encode()]
    found += [
        block.encode()
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    ]
    return [text for text in found if b"kind" in text]


def test_recipes(tmp_path: Path, guard: Guard, show: Callable[[BuildError], str]) -> None:
    mutator, taken = Mutator(chance_of("recipes"), recipes()), 0
    file = tmp_path / "work" / FILE_NAME
    file.parent.mkdir()

    def read(data: bytes) -> None:
        file.write_bytes(data)
        graph = open_graph(file.parent, None)
        graph.goals([])
        graph_text.tree(graph)

    with guard.only(tmp_path):
        for _ in range(1000 * TIMES):
            taken += survives(read, mutator.text(), show)
    assert taken > 100 * TIMES


def test_settings(tmp_path: Path, guard: Guard, show: Callable[[BuildError], str]) -> None:
    (tmp_path / FILE_NAME).write_text(conftest.RECIPE)
    seeds = [
        b"adapter.training.lr=2e-4",
        b"adapter.modules=[a, b]",
        b"tone.prompt={phrase}",
        b"onnx-int4.block_size=64",
        b"adapter={r: 4}",
    ]
    mutator = Mutator(chance_of("settings"), seeds)
    with guard.only(tmp_path):
        for _ in range(200 * TIMES):
            survives(
                lambda data: open_graph(tmp_path, None, [data.decode("utf-8", "surrogateescape")]),
                mutator.text(),
                show,
            )


class Refusing:
    """An executor that runs nothing."""

    def __init__(self) -> None:
        self._asked: list[str] = []

    def prepare(self, modules: Sequence[str]) -> None:
        """Nothing takes long here."""

    def can_start(self, action: Requirements) -> bool:
        return True

    def start(self, action: Action, log: Path, inherit: Sequence[int] = ()) -> None:
        self._asked.append(action.node)

    def wait(self, seconds: float) -> Message | Outcome | None:
        return (
            Outcome(self._asked.pop(), 0.1, error=StepError("not run here", hint="none"))
            if self._asked
            else None
        )

    def cancel(self) -> None:
        self._asked.clear()


class Cached:
    """A pipeline that was built, and whose cache is to be spoilt."""

    def __init__(self, root: Path) -> None:
        self.place = Place(root / "work", root / "cache")
        self.pipeline = Pipeline(self.place)
        builds = Builds(self.place)
        builds.build()
        assert builds.build().done["ran"] == []
        self.traces = sorted(self.place.cache.glob("blobs/??/*.trace"))
        self.files = {
            p: p.read_bytes()
            for root in (self.place.cache / "blobs", self.place.folder / ".olivebuild")
            for p in root.rglob("*")
            if p.is_file()
        }

    def mend(self) -> None:
        """As it was, and without results in build/, so that all are wanted."""
        for path, data in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for folder in (self.place.cache / "traces", self.place.folder / "build"):
            shutil.rmtree(folder, ignore_errors=True)

    def put_trace(self, file: Path, text: str) -> None:
        file.write_text(f"{hashing.of_bytes(text)}\n{text}")

    def put_blob(self, data: bytes) -> str:
        name = hashing.of_bytes(data)
        path = self.place.cache / "blobs" / name[:2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return name

    def use(self, _: bytes = b"") -> Plan | None:
        """Plan, restore what can be restored, and plan again.

        Raises the first error of the build.
        """
        project = open_project(self.place.folder, None)
        try:
            project.planner.plan(project.graph.goals([]))
            report = self.build()
        finally:
            project.planner.traces.close()
        if report.errors:
            raise report.errors[0]
        return report.plan

    def build(self) -> BuildReport:
        for project in (
            open_changed(self.place.folder, None, (), (), None),
            open_project(self.place.folder, None),
        ):
            try:
                return Builder(project.planner, Refusing(), lambda _: None).run(
                    project.goals([]), project.before
                )
            except FrozenNodeChanged:
                assert project.before
            finally:
                project.planner.traces.close()
        raise AssertionError("the whole graph strayed")


@pytest.fixture(scope="module")
def cached() -> Iterator[Cached]:
    with quick_folder() as folder:
        yield Cached(folder)


def test_traces(
    cached: Cached, guard: Guard, show: Callable[[BuildError], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(cached.place.cache))
    mutator = Mutator(chance_of("traces"), [cached.files[t] for t in cached.traces])
    with guard.only(cached.place.folder, cached.place.cache):
        for _ in range(40 * TIMES):
            cached.mend()
            file = mutator.chance.choice(cached.traces)
            text = cached.files[file].decode().partition("\n")[2]
            if mutator.chance.random() < 0.8:
                cached.put_trace(file, mutator.json(text))
            else:
                file.write_bytes(mutator.text())
            survives(cached.use, file.read_bytes(), show)


def test_manifests(
    cached: Cached, guard: Guard, show: Callable[[BuildError], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(cached.place.cache))
    mutator, outside = (
        Mutator(chance_of("manifests"), [b"{}"]),
        sorted(cached.place.folder.parent.iterdir()),
    )
    with guard.only(cached.place.folder, cached.place.cache):
        for _ in range(60 * TIMES):
            cached.mend()
            file = mutator.chance.choice(cached.traces)
            trace = json.loads(cached.files[file].decode().partition("\n")[2])
            name = trace["manifest"]
            manifest = mutator.json(
                cached.files[cached.place.cache / "blobs" / name[:2] / name].decode()
            )
            cached.put_trace(
                file, json.dumps(trace | {"manifest": cached.put_blob(manifest.encode())})
            )
            survives(cached.use, manifest.encode(), show)
    assert sorted(cached.place.folder.parent.iterdir()) == outside


def test_what_a_folder_remembers(
    cached: Cached, guard: Guard, show: Callable[[BuildError], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(cached.place.cache))
    files = [
        p
        for p in cached.files
        if p.parent.name == ".olivebuild" and p.suffix in (".json", ".jsonl", ".bin")
    ]
    assert {p.name for p in files} >= {"last.jsonl", "stats.jsonl", "seen.bin", "nodes.bin"}
    mutator = Mutator(chance_of("state"), [cached.files[p] for p in files])
    with guard.only(cached.place.folder, cached.place.cache):
        for _ in range(30 * TIMES):
            cached.mend()
            file = mutator.chance.choice(files)
            try:
                if file.suffix == ".jsonl":
                    journal = Journal(file)
                    name = mutator.chance.choice(list(journal))
                    journal.set(name, mutator.json((journal.get(name) or b"").decode()).encode())
                    journal.save()
                else:
                    file.write_text(mutator.json(cached.files[file].decode()))
            except ValueError:
                file.write_bytes(mutator.text())
            # A digest that is wrong makes a step run that need not.
            survives(cached.use, file.read_bytes(), show)


def test_snapshots(cached: Cached, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    cached.mend()
    monkeypatch.chdir(cached.place.folder)
    key = snapshot.command_key([])
    file = Path(snapshot.file_of([], key))
    stats = {str(p): snapshot.stat_of(str(p)) for p in cached.files}
    seed = snapshot.to_bytes(key, ("", ""), *node_db.packed(stats), "nothing to do\n", "", 0)
    mutator = Mutator(chance_of("snapshots"), [seed])
    with guard.only(cached.place.folder, cached.place.cache):
        for _ in range(300 * TIMES):
            data = mutator.text()
            head, _, rest = data.partition(b"\n")
            if mutator.chance.random() < 0.7:
                body = rest.partition(b"\n")[2]
                data = head + b"\n" + snapshot.checksum(body).encode() + b"\n" + body
            file.write_bytes(data)
            with redirect_stdout(io.StringIO()):
                survives(lambda _: snapshot.answer([]), data, str)
    file.unlink()


HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
    }
)
SMALL: dict[str, tuple[list[bytes], Callable[[Path], object]]] = {
    "olivebuild.lock": (
        [b'{"version": 1, "sources": {"hf:a/b": "0123"}, "libraries": {"torch": "2.8.0"}}'],
        Lockfile,
    ),
    "x.safetensors": (
        [struct.pack("<Q", len(HEADER)) + HEADER.encode() + bytes(24)],
        lambda p: parse_header(p.read_bytes(), p.stat().st_size, str(p)),
    ),
    "places.json": (
        [b'{"folder": "/tmp", "files": [["a", [1, 2, 3, 4, 5], [["0123", 0, 16]]]]}'],
        tensor_locations._load,
    ),
    "rows.jsonl": (
        [b'{"a": "x", "b": 1}\n{"a": "y", "b": [1, {"c": null}]}\n'],
        lambda p: list(read_file(p, "rows.jsonl")),
    ),
    "rows.json": (
        [b'[{"a": "x"}, {"a": "y"}]', b'{"data": [{"a": 1}]}'],
        lambda p: list(read_file(p, "rows.json")),
    ),
    "rows.csv": (
        [b'a,b\n1,"x, y"\n2,"z\nz"\n', b"\xef\xbb\xbfa,b\r\n1,2\r\n"],
        lambda p: list(read_file(p, "rows.csv")),
    ),
    "rows.tsv": ([b"a\tb\n1\tx\n"], lambda p: list(read_file(p, "rows.tsv"))),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_files(
    tmp_path: Path, guard: Guard, show: Callable[[BuildError], str], name: str
) -> None:
    seeds, read = SMALL[name]
    mutator, file = Mutator(chance_of(name), seeds), tmp_path / name
    with guard.only(tmp_path):
        for _ in range(200 * TIMES):
            file.write_bytes(mutator.text())
            survives(lambda _: read(file), file.read_bytes(), show)


def test_parquet(tmp_path: Path, guard: Guard, show: Callable[[BuildError], str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": ["x", "y"], "b": [1, 2]}), tmp_path / "seed.parquet")
    mutator, file = (
        Mutator(chance_of("parquet"), [(tmp_path / "seed.parquet").read_bytes()]),
        tmp_path / "rows.parquet",
    )
    with guard.only(tmp_path):
        for _ in range(100 * TIMES):
            file.write_bytes(mutator.text())
            survives(lambda _: list(read_file(file, "rows.parquet")), file.read_bytes(), show)


def test_the_history(tmp_path: Path, guard: Guard, show: Callable[[BuildError], str]) -> None:
    history = History(tmp_path, tmp_path / FILE_NAME)
    text = (
        '{"goals":["a"],"time":"2026-01-01T00:00:00",'
        '"seconds":1.0,"saved":0.0,"fresh":1,"number":1}'
    )
    mutator = Mutator(chance_of("history"), [b"{}"])
    history.file.parent.mkdir()
    with guard.only(tmp_path):
        for _ in range(200 * TIMES):
            line = mutator.json(text)
            history.file.write_text(f"{hashing.of_bytes(line)} {line}\n")
            assert survives(lambda _: history.read(), line.encode(), show)


def test_a_pickled_row_of_the_index_is_never_read(
    cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are planted as diskcache itself would write them; reading them the usual way creates
    a file.
    """
    import diskcache

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "evil"), "w"))

    monkeypatch.setenv("OLIVEBUILD_CACHE", str(cached.place.cache))
    cached.mend()
    keys = [t.stem for t in cached.traces]
    with diskcache.Cache(str(cached.place.cache / "traces")) as planted:
        for key in keys:
            planted.set(key, Evil())
        planted.set(Evil(), "x")
        planted.set("big", b"x" * 100_000)
    with diskcache.Cache(str(cached.place.cache / "traces")) as index, index.get(keys[0]):
        pass
    assert (tmp_path / "evil").exists()
    (tmp_path / "evil").unlink()
    with (
        diskcache.Cache(str(cached.place.cache / "traces"), disk=JsonDisk) as index,
        pytest.raises(ValueError, match="not JSON text"),
    ):
        index.get(keys[0])
    assert cached.use()
    assert not (tmp_path / "evil").exists()
    assert cached.place.everything() == cached.pipeline.expected()
