"""Links in folders that a recipe names: none may lead out, but those of a snapshot of the hub to
its own blobs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, InputError
from olivebuild.core.fs import links
from olivebuild.planner.scan import BROUGHT
from tests.support.sites import Site

SLOTTED = """\
  base: {kind: model, source: base}
  int4: {kind: onnx, model: base, slots: all-linear}
"""


def named(tmp_path: Path, kind: str, name: str) -> Site:
    """A recipe whose target `one` is the folder `name`."""
    more = {
        "dataset": ', prompt: "{a}", completion: "{b}"',
        "onnx-adapter": ", base: int4",
    }.get(kind, "")
    others = SLOTTED if kind == "onnx-adapter" else ""
    site = Site(tmp_path, f"targets:\n  one: {{kind: {kind}, source: {name}{more}}}\n{others}")
    folder = site.folder / "theirs"
    folder.mkdir()
    if others:
        write_model(site.folder / "base")
    for file in ("config.json", "adapter_config.json", "genai_config.json"):
        (folder / file).write_text("{}")
    if kind != "model":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    else:
        (folder / "adapter_config.json").unlink()
        write_model(folder)
    return site


def write_model(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    empty = json.dumps({"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(empty).to_bytes(8, "little") + empty)


@pytest.mark.parametrize("kind", ["model", *BROUGHT])
def test_a_link_that_leaves_what_was_named_is_refused(kind: str, tmp_path: Path) -> None:
    site = named(tmp_path, kind, "theirs")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/tokens.json").write_text("secret")
    link, inside = site.folder / "theirs/tokenizer.json", site.folder / "theirs/vocab.json"
    inside.symlink_to("config.json")
    site.plan("one")
    for target in (
        "../../secret/tokens.json",
        str(tmp_path / "secret/tokens.json"),
        "../theirs2/x.json",
        "../../secret",
    ):
        link.symlink_to(target)
        with pytest.raises(
            BuildError, match=r"the link tokenizer.json in theirs leads out of it, to "
        ) as e:
            site.plan("one")
        assert e.value.where
        assert e.value.where.line == 2
        assert target in e.value.fact
        link.unlink()
    # One link that leads to another, which leads out.
    link.symlink_to("vocab.json")
    inside.unlink()
    inside.symlink_to("../../secret/tokens.json")
    with pytest.raises(BuildError, match="leads out of it"):
        site.plan("one")


@pytest.mark.parametrize("kind", ["model", *BROUGHT])
def test_what_is_named_may_itself_be_a_link(kind: str, tmp_path: Path) -> None:
    site = named(tmp_path, kind, "shown")
    (site.folder / "shown").symlink_to("theirs")
    assert site.plan("one").states["one"]


def snapshot(root: Path, folder: Path, below: str = "") -> tuple[Path, Path]:
    """The hub's own layout around the files of a folder: (snapshot, blobs)."""
    repository = root / "hub/models--own--tiny"
    blobs, place = (
        repository / "blobs",
        repository / "snapshots/0123456789abcdef0123456789abcdef01234567" / below,
    )
    blobs.mkdir(parents=True)
    place.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{i:0{64 if file.suffix == '.safetensors' else 40}x}"
        blob.write_bytes(file.read_bytes())
        (place / file.name).symlink_to(os.path.relpath(blob, place))
    return place, blobs


@pytest.mark.parametrize("below", ["", "cpu/int4"])
@pytest.mark.parametrize("kind", ["model", *BROUGHT])
def test_a_snapshot_of_the_hub_can_be_named_and_its_links_lead_to_its_own_blobs_alone(
    kind: str, below: str, tmp_path: Path
) -> None:
    site = named(tmp_path, kind, "snapshot")
    place, blobs = snapshot(tmp_path, site.folder / "theirs", below)
    (site.folder / "snapshot").symlink_to(place)
    site.plan("one")
    link, up = place / "tokenizer.json", os.path.relpath(blobs.parent, place)
    other = tmp_path / "hub/models--own--other/blobs"
    other.mkdir(parents=True)
    for file in (
        other / ("e" * 40),
        tmp_path / "secret",
        blobs / "notes",
        blobs.parent / ("f" * 40),
    ):
        file.write_text("{}")
    (blobs / ("a" * 40)).symlink_to(tmp_path / "secret")
    (blobs / ("b" * 40)).mkdir()
    for target in (
        f"{up}/blobs/{'a' * 40}",
        f"{up}/blobs/{'b' * 40}",
        f"{up}/blobs/{'c' * 40}",
        f"{up}/blobs/notes",
        f"{up}/{'f' * 40}",
        f"{up}/../models--own--other/blobs/{'e' * 40}",
        f"{up}/blobs",
    ):
        link.symlink_to(target)
        with pytest.raises(BuildError, match=r"the link tokenizer.json in .* leads out of it"):
            site.plan("one")
        link.unlink()
    # Blobs that are themselves elsewhere.
    os.rename(blobs, tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match="leads out of it"):
        site.plan("one")


def test_a_folder_that_looks_like_a_snapshot_by_name_alone_is_none(tmp_path: Path) -> None:
    place = tmp_path / "snapshots/1"
    place.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("a" * 40)).write_text("")
    (place / "x.json").symlink_to(f"../../blobs/{'a' * 40}")
    assert len(list(links.leaving(place, [place / "x.json"]))) == 1


def test_a_folder_of_links_into_an_mlflow_model_is_read(tmp_path: Path) -> None:
    root, view = tmp_path / "phi", tmp_path / ".olivebuild/tone/mlflow/phi-0"
    for folder in (root / "model", view):
        folder.mkdir(parents=True)
    (root / "MLmodel").write_text("flavors: {}")
    (root / "model/config.json").write_text("{}")
    (view / "config.json").symlink_to(root / "model/config.json")
    links.check(view, sorted(view.iterdir()), None)


@pytest.mark.parametrize("place", [".olivebuild/mlflow/phi-0", "mlflow/.olivebuild", "mlflow/x"])
@pytest.mark.parametrize("through", ["", "link"])
def test_links_to_other_files_are_refused_there_too(
    tmp_path: Path, place: str, through: str
) -> None:
    """The file lies outside of any MLflow model, be it reached through a link of one."""
    root, view, secret = tmp_path / "phi", tmp_path / place, tmp_path / "secret"
    root.mkdir()
    view.mkdir(parents=True)
    (root / "MLmodel").write_text("flavors: {}")
    secret.write_text("{}")
    (root / "link").symlink_to(secret)
    (view / "config.json").symlink_to(root / through if through else secret)
    with pytest.raises(InputError, match=r"config\.json .* leads out of it"):
        links.check(view, sorted(view.iterdir()), None)


def test_a_folder_elsewhere_may_not_lead_into_an_mlflow_model(tmp_path: Path) -> None:
    (tmp_path / "phi").mkdir()
    (tmp_path / "phi/MLmodel").write_text("flavors: {}")
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/config.json").symlink_to(tmp_path / "phi/MLmodel")
    with pytest.raises(InputError, match="leads out of it"):
        links.check(tmp_path / "mlflow", sorted((tmp_path / "mlflow").iterdir()), None)
