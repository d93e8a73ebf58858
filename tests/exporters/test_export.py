"""Exports of models that a pretended build has made, and the gates that hold them back."""

from __future__ import annotations

import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from olivebuild.core.errors import BuildError, GateError
from olivebuild.engine.recorder import history_of
from olivebuild.exporters import manifest, shipments
from olivebuild.exporters.export import export
from olivebuild.exporters.layouts.mlflow import NEEDED
from tests.conftest import Place
from tests.support import pretend
from tests.support.mounts import memory_disk
from tests.support.verifiers import check_statement

MET = 'gates: ["accuracy >= 0.2", "size <= 150MB"]'
GATES = 'gates: ["accuracy >= 0.8", "accuracy drop vs merged <= 0.02", "ttft_p95 <= 20ms"]'


@pytest.fixture
def built(place: Place) -> Place:
    pretend.write_recipe(place, pretend.RECIPE.replace(GATES, MET))
    (place.folder / "base/LICENSE").write_text("do what you like\n")
    (place.folder / "base/README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# Base\n")
    pretend.build(place, 1)
    return place


def test_an_export_has_all_its_papers(built: Place, tmp_path: Path) -> None:
    project = pretend.opened(built)
    done = export(project, "onnx-int4", tmp_path / "out")
    assert (done.doubts, done.judged, done.delta) == ((), True, None)
    out = tmp_path / "out"
    contents = manifest.read(out)
    assert contents.digest == done.digest
    for file in contents.files:
        assert manifest.sha256_of(out / file.name) == file.sha256
    names = {path.name for path in out.iterdir()}
    assert names == {file.name for file in contents.files} | {manifest.NAME}
    assert names >= {"README.md", "provenance.json", "LICENSE"}
    check_statement((out / "provenance.json").read_text())
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["license"], head["library_name"]) == ("mit", "onnxruntime-genai")
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "tone"
    assert 0 < result["metrics"][0]["value"] <= 1
    for part in ("## Figures (bench)", "| accuracy \\>= 0.2 |", "## Data", "## How it was made"):
        assert part.replace("\\>", "&gt;") in body
    # The same again is the same.
    export(pretend.opened(built), "onnx-int4", tmp_path / "again")
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    said = [*shipments.lines(shipments.read(history_of(project).file), 5)]
    assert [line.split()[3:] for line in said] == [
        ["onnx-int4", done.digest[:12], "as", name] for name in ("out", "again")
    ]


@pytest.mark.parametrize(
    ("gates", "why"),
    [
        ('gates: ["size <= 1MB"]', "bench: size <= 1MB is missed"),
        ('gates: ["accuracy >= 0.9"]', "bench: accuracy >= 0.9 is not decided"),
    ],
)
def test_what_its_gates_do_not_let_out_needs_force(
    built: Place, tmp_path: Path, gates: str, why: str
) -> None:
    built.edit(MET, gates)
    with pytest.raises(GateError, match="is not to be shipped") as caught:
        export(pretend.opened(built), "onnx-int4", tmp_path / "out")
    assert why in caught.value.fact
    assert not (tmp_path / "out").exists()
    done = export(pretend.opened(built), "onnx-int4", tmp_path / "out", force=True)
    assert done.doubts == (why,)
    told = why.replace(">", "&gt;").replace("<", "&lt;")
    assert f"although:**\n\n- {told}" in (tmp_path / "out/README.md").read_text()


def test_what_was_not_measured_as_it_is_needs_force(built: Place, tmp_path: Path) -> None:
    built.edit("data: tone\n    baseline", "max_new_tokens: 9\n    data: tone\n    baseline")
    with pytest.raises(GateError, match="bench has not measured it as it is now"):
        export(pretend.opened(built), "onnx-int4", tmp_path / "out")


def test_a_licence_that_is_not_known_is_said(built: Place, tmp_path: Path) -> None:
    for name, said in (("README.md", False), ("LICENSE", True)):
        (built.folder / "base" / name).unlink()
        export(pretend.opened(built), "onnx-int4", tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        assert ("licence of the base model is not known" in card) is said
        assert 'license: "other"' in card


def test_what_no_gate_judges_is_exported_and_said(built: Place, tmp_path: Path) -> None:
    assert not export(pretend.opened(built), "adapter", tmp_path / "out").judged


def test_what_is_not_built_is_an_error(built: Place, tmp_path: Path) -> None:
    built.edit("steps: 60", "steps: 61")
    with pytest.raises(BuildError, match="has no result"):
        export(pretend.opened(built), "onnx-int4", tmp_path / "out", force=True)
    assert sorted(os.listdir(tmp_path)) == ["cache", "work"]


def test_nothing_is_overwritten(built: Place, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BuildError, match="there is something already"):
        export(pretend.opened(built), "onnx-int4", tmp_path / "out")
    with pytest.raises(BuildError, match="its folder is not there"):
        export(pretend.opened(built), "onnx-int4", tmp_path / "a/b")
    assert (tmp_path / "out").read_text() == "mine"


REFUSED_PLACES = {
    "work/build/onnx-int4/out": "builds replace and delete what lies in build/",
    "work/build/out": "builds replace and delete what lies in build/",
    "work/.olivebuild/out.zip": r"builds replace and delete what lies in \.olivebuild/",
    "cache/out": "builds replace and delete what lies in the cache",
    "link/out": "builds replace and delete what lies in build/",
    "out.tar.xz": "archives of that form are not written",
    "out.7Z": "archives of that form are not written",
    ".tar.gz": "an archive needs a name",
    ".ZIP": "an archive needs a name",
}


def test_places_where_it_would_not_stay_or_mislead(built: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("work/build")
    project = pretend.opened(built)
    for where, why in REFUSED_PLACES.items():
        with pytest.raises(BuildError, match=why):
            export(project, "onnx-int4", tmp_path / where)
        assert not (tmp_path / where).exists()


def test_a_full_disk_leaves_nothing(built: Place, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", 48 << 10):
        (tmp_path / "disk/ballast").write_bytes(bytes(28 << 10))
        done = built.run("export", "onnx-int4", str(tmp_path / "disk/out.zip"))
        assert (done.code, "Traceback" in done.err) == (1, False)
        assert "no room is left on the disk" in done.err
        assert os.listdir(tmp_path / "disk") == ["ballast"]
    assert "shipped" not in built.run("history").out


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip", ".ZIP"])
def test_archives_hold_one_folder(built: Place, tmp_path: Path, suffix: str) -> None:
    one, two = tmp_path / f"tone{suffix}", tmp_path / f"two/tone{suffix}"
    two.parent.mkdir()
    for place in (one, two):
        export(pretend.opened(built), "onnx-int4", place)
    assert one.read_bytes() == two.read_bytes()
    if suffix.lower() == ".zip":
        names = zipfile.ZipFile(one).namelist()
    else:
        with tarfile.open(one) as archive:
            names = archive.getnames()
            archive.extractall(tmp_path / "got", filter="data")
            assert manifest.read(tmp_path / "got/tone").target == "onnx-int4"
    assert {name.partition("/")[0] for name in names} == {"tone"}


def test_environments_of_mlflow_are_equal_and_have_mlflow(built: Place, tmp_path: Path) -> None:
    export(pretend.opened(built), "onnx-int4", tmp_path / "out", layout="mlflow")
    lines = (tmp_path / "out/requirements.txt").read_text().splitlines()
    conda = yaml.safe_load((tmp_path / "out/conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": lines}
    assert [re.split("[<>=]", line)[0] for line in lines] == ["mlflow", *NEEDED["onnx"]]
    plain = yaml.safe_load((tmp_path / "out/python_env.yaml").read_text())
    assert plain["dependencies"] == ["-r requirements.txt"]
    assert conda["dependencies"][0] == f"python={plain['python']}"


def test_the_command(built: Place) -> None:
    done = built.run("export", "onnx-int4", "../out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["target"] == "onnx-int4"
    assert "shipped" in built.run("history").out
    built.edit(MET, 'gates: ["size <= 1MB"]')
    refused = built.run("export", "onnx-int4", "../other")
    assert refused.code == 3
    assert "hint: mend it, or --force" in refused.err
