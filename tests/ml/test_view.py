"""Models as their tensors: read from a folder or from the store they are one model, and what is
remembered of them holds while it is true.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from olivebuild.cache import tensor_locations
from olivebuild.cache.memo import Derived
from olivebuild.cache.store import Store
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, InputError
from olivebuild.formats.weight_files import model_digest
from olivebuild.ml.weights.view import (
    Shard,
    Weights,
    headers_of,
    of_folder,
    of_manifest,
    write_folder,
)
from tests.formats.test_safetensors import Values, digest_of, model, write

WEIGHTS: Values = {
    "embed.weight": ("F32", [2, 1], b"12345678"),
    "q.weight": ("BF16", [2], b"abcd"),
    "k.weight": ("BF16", [2], b"abcd"),
    "k.bias": ("BF16", [2], b"ab\0\0"),
    "empty": ("F32", [0], b""),
}
SHARDINGS = [
    [["embed.weight", "q.weight", "k.weight", "k.bias", "empty"]],
    [["embed.weight"], ["q.weight", "k.weight", "k.bias", "empty"]],
    [["empty", "k.bias"], ["k.weight", "q.weight"], ["embed.weight"]],
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def cut(folder: Path, shards: list[list[str]]) -> Path:
    return model(folder, *({name: WEIGHTS[name] for name in shard} for shard in shards))


def lent(store: Store, folder: Path) -> Weights:
    return of_folder(store, folder, digest_of(folder))


def stored(store: Store, folder: Path) -> Weights:
    """Of a copy in the store, headers and tensors."""
    return of_manifest(store, store.put_folder(folder)[0])


# One model, wherever it lies


@pytest.mark.parametrize("shards", SHARDINGS)
def test_a_folder_has_the_model_digest_of_its_tensors(
    store: Store, tmp_path: Path, shards: list[list[str]]
) -> None:
    folder = cut(tmp_path / "m", shards)
    assert lent(store, folder).model_digest() == digest_of(folder)


@pytest.mark.parametrize("shards", SHARDINGS)
def test_a_manifest_has_the_model_digest_of_its_folder(
    store: Store, tmp_path: Path, shards: list[list[str]]
) -> None:
    folder = cut(tmp_path / "m", shards)
    (folder / "tokenizer.json").write_text("{}")
    assert stored(store, folder).model_digest() == digest_of(folder)


def test_a_model_with_code_counts_it(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[0])
    (folder / "modeling_x.py").write_text("pass")
    found = digest_of(folder, code=True)
    assert of_folder(store, folder, found, code=True).model_digest() == found != digest_of(folder)


@pytest.mark.parametrize("read", [lent, stored])
def test_the_bytes_are_those_of_the_file(
    store: Store, tmp_path: Path, read: Callable[[Store, Path], Weights]
) -> None:
    weights = read(store, cut(tmp_path / "m", SHARDINGS[2])).by_name
    assert {name: w.read() for name, w in weights.items()} == {
        name: data for name, (_, _, data) in WEIGHTS.items()
    }
    assert weights["embed.weight"].read(2, 3) == b"345"
    assert weights["embed.weight"].read(6) == b"78"


def test_equal_tensors_have_one_digest_under_each_name(store: Store, tmp_path: Path) -> None:
    weights = lent(store, cut(tmp_path / "m", SHARDINGS[0])).by_name
    assert weights["q.weight"].digest == weights["k.weight"].digest == hashing.of_bytes(b"abcd")


@pytest.mark.parametrize("read", [lent, stored])
def test_a_model_written_as_a_folder_is_the_model(
    store: Store, tmp_path: Path, read: Callable[[Store, Path], Weights]
) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    (tmp_path / "copy").mkdir()
    write_folder(read(store, folder), tmp_path / "copy")
    assert {p.name: p.read_bytes() for p in (tmp_path / "copy").iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_headers_tell_of_every_weight(store: Store, tmp_path: Path) -> None:
    found = headers_of(store, store.put_folder(cut(tmp_path / "m", SHARDINGS[1]))[0])
    assert {name: (t.dtype, list(t.shape), size) for name, (t, size) in found.items()} == {
        n: (d, s, len(b)) for n, (d, s, b) in WEIGHTS.items()
    }


def test_a_weight_that_ends_early_is_an_error(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[0])
    weights = lent(store, folder).by_name
    os.truncate(folder / "model-0.safetensors", 20)
    with pytest.raises(InputError, match="ends early"):
        weights["k.weight"].read()


def test_a_manifest_whose_tensor_is_gone_is_damaged(store: Store, tmp_path: Path) -> None:
    manifest, _ = store.put_folder(cut(tmp_path / "m", SHARDINGS[0]))
    store.path(hashing.of_bytes(b"abcd")).unlink()
    with pytest.raises(Damaged, match="is missing"):
        of_manifest(store, manifest)


def test_a_manifest_with_other_blobs_than_tensors_is_damaged(store: Store, tmp_path: Path) -> None:
    manifest, _ = store.put_folder(cut(tmp_path / "m", SHARDINGS[0]))
    (entry,) = [e for e in manifest.files if e.name.endswith(".safetensors")]
    whole = store.put_bytes((tmp_path / "m" / entry.name).read_bytes()[entry.blobs[0][1] :])
    runs = [entry.blobs[0], (whole, entry.size - entry.blobs[0][1])]
    odd = replace(
        manifest, files=tuple(e.of_runs(e.name, runs) if e is entry else e for e in manifest.files)
    )
    with pytest.raises(Damaged, match="one blob a tensor"):
        of_manifest(store, odd)


# Structure


def changed(
    store: Store, folder: Path, name: str, dtype: str, shape: list[int], data: bytes
) -> str:
    return lent(store, model(folder, WEIGHTS | {name: (dtype, shape, data)})).structure()


@pytest.mark.parametrize("data", [b"wxyz", b"\0\0\0\0"])
def test_other_values_of_a_weight_are_the_same_structure(
    store: Store, tmp_path: Path, data: bytes
) -> None:
    before = lent(store, model(tmp_path / "a", WEIGHTS)).structure()
    assert changed(store, tmp_path / "b", "q.weight", "BF16", [2], data) == before


def test_other_values_of_a_bias_are_the_same_structure(store: Store, tmp_path: Path) -> None:
    before = lent(store, model(tmp_path / "a", WEIGHTS)).structure()
    assert changed(store, tmp_path / "b", "k.bias", "BF16", [2], b"\0\0\0\1") == before


@pytest.mark.parametrize("zeros", [b"\0\0\0\0", b"\0\x80\0\0", b"\0\x80\0\x80"])
def test_a_bias_that_becomes_zero_is_another_structure(
    store: Store, tmp_path: Path, zeros: bytes
) -> None:
    before = lent(store, model(tmp_path / "a", WEIGHTS)).structure()
    assert changed(store, tmp_path / "b", "k.bias", "BF16", [2], zeros) != before


@pytest.mark.parametrize(
    "other", [("q.weight", "F16", [2]), ("q.weight", "BF16", [2, 1]), ("v.weight", "BF16", [2])]
)
def test_another_type_shape_or_name_is_another_structure(
    store: Store, tmp_path: Path, other: tuple[str, str, list[int]]
) -> None:
    before = lent(store, model(tmp_path / "a", WEIGHTS)).structure()
    name, dtype, shape = other
    assert changed(store, tmp_path / "b", name, dtype, shape, b"abcd") != before


def test_another_config_is_another_structure(store: Store, tmp_path: Path) -> None:
    folder = model(tmp_path / "a", WEIGHTS)
    before = lent(store, folder).structure()
    (folder / "config.json").write_text('{"model_type": "phi3"}')
    assert lent(store, folder).structure() != before


def test_sharding_and_order_are_the_same_structure(store: Store, tmp_path: Path) -> None:
    found = {
        lent(store, cut(tmp_path / f"m{i}", shards)).structure()
        for i, shards in enumerate(SHARDINGS)
    }
    assert len(found | {stored(store, tmp_path / "m1").structure()}) == 1


def test_a_file_that_a_model_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match="holds no object"):
        Weights((Shard("m", b"", ()),), ()).file("config.json")


# Places


def test_places_are_those_of_every_tensor(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    found = tensor_locations.of_folder(store.root, digest_of(folder), folder)
    assert sorted(
        path.read_bytes()[start : start + size] for path, _, start, size in found
    ) == sorted(data for _, _, data in WEIGHTS.values())
    assert all(
        hashing.of_bytes(path.read_bytes()[start : start + size]) == name
        for path, name, start, size in found
    )


def test_places_are_lent_once_they_are_known(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    name = digest_of(folder)
    assert tensor_locations.lenders(store.root, name) == {}
    found = tensor_locations.of_folder(store.root, name, folder)
    lender = tensor_locations.lenders(store.root, name)
    assert lender.keys() == {tensor for _, tensor, _, _ in found}
    assert all(place.lent for place in lender.values())
    assert tensor_locations.lenders(store.root, "0" * 32) == {}


def change_file(file: Path, how: str) -> None:
    if how == "written":
        write(
            file,
            {n: (d, s, b"9" * len(b)) for n, (d, s, b) in WEIGHTS.items() if n != "embed.weight"},
        )
    elif how == "touched":
        os.utime(file)
    elif how == "replaced":
        file.with_name("other").write_bytes(file.read_bytes())
        os.replace(file.with_name("other"), file)
    elif how == "gone":
        file.unlink()
    else:
        os.truncate(file, 10)


@pytest.mark.parametrize("how", ["written", "touched", "replaced", "gone", "cut"])
def test_places_are_forgotten_when_a_weight_file_changed(
    store: Store, tmp_path: Path, how: str
) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    name = digest_of(folder)
    tensor_locations.of_folder(store.root, name, folder)
    change_file(folder / "model-1.safetensors", how)
    assert tensor_locations.lenders(store.root, name) == {}


@pytest.mark.parametrize("how", ["touched", "replaced"])
def test_a_model_that_changes_after_it_was_opened_is_told(
    store: Store, tmp_path: Path, how: str
) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    weights = lent(store, folder)
    weights.check_unchanged(store)
    file = folder / sorted(p.name for p in folder.glob("*.safetensors"))[0]
    if how == "touched":
        os.utime(file)
    else:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    with pytest.raises(InputError, match="changed while it was read"):
        weights.check_unchanged(store)


def test_a_second_folder_with_the_model_lends_when_the_first_is_gone(
    store: Store, tmp_path: Path
) -> None:
    folders = [cut(tmp_path / name, SHARDINGS[1]) for name in ("a", "b")]
    name = digest_of(folders[0])
    for folder in folders:
        tensor_locations.of_folder(store.root, name, folder)
    for gone, left in (folders, folders[::-1]):
        (gone / "model-0.safetensors").rename(tmp_path / "aside")
        assert {
            place.path.parent for place in tensor_locations.lenders(store.root, name).values()
        } == {left}
        (tmp_path / "aside").rename(gone / "model-0.safetensors")
        tensor_locations.of_folder(store.root, name, gone)


def test_a_folder_is_known_through_a_link(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[1])
    name = digest_of(folder)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert tensor_locations.of_folder(
        store.root, name, tmp_path / "link"
    ) == tensor_locations.of_folder(store.root, name, folder)
    assert len(list((store.root / "places").glob("*.json"))) == 1
    assert of_folder(store, tmp_path / "link", name).model_digest() == name


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": 1}', '{"folder": "x", "files": [[1]]}', "[" * 100_000]
)
def test_odd_notes_of_places_are_no_notes(store: Store, text: str) -> None:
    (store.root / "places" / f"{'0' * 32}-00000000.json").write_text(text)
    assert tensor_locations.lenders(store.root, "0" * 32) == {}


def test_a_tensor_is_found_in_the_store_before_the_folder_that_lends_it(
    store: Store, tmp_path: Path
) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[0])
    name, blob = digest_of(folder), hashing.of_bytes(b"abcd")
    tensor_locations.of_folder(store.root, name, folder)
    assert store.find(blob, 4, name).lent
    store.put_bytes(b"abcd")
    assert store.find(blob, 4, name) == ByteRange(store.path(blob), 0, 4)


def test_a_model_changed_under_its_digest_is_hashed_again(store: Store, tmp_path: Path) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[0])
    before = digest_of(folder)
    of_folder(store, folder, before)
    write(folder / "model-0.safetensors", WEIGHTS | {"embed.weight": ("F32", [2, 1], b"87654321")})
    after = of_folder(store, folder, before)
    assert after.by_name["embed.weight"].digest == hashing.of_bytes(b"87654321")
    assert (
        after.model_digest() == model_digest(folder, hashing.StatMemo(tmp_path / "memo")) != before
    )


def test_weights_that_change_while_they_are_read_are_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut(tmp_path / "m", SHARDINGS[0])
    known = tensor_locations.of_folder(store.root, "0" * 32, folder)
    monkeypatch.setattr(
        tensor_locations,
        "of_folder",
        lambda *_: [(path, name, start + 1, size) for path, name, start, size in known],
    )
    with pytest.raises(InputError, match="changed while it was read"):
        of_folder(store, folder, "0" * 32)


# What was derived


def test_what_was_derived_is_known_again(store: Store) -> None:
    blob = store.put_bytes(b"packed")
    Derived(store).put({"a": ((blob, 6),), "b": ((blob, 6), (blob, 6))})
    assert Derived(store).get(["a", "b", "c"]) == {"a": ((blob, 6),), "b": ((blob, 6), (blob, 6))}


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_what_was_derived_is_not_known_without_its_blob(store: Store, how: str) -> None:
    kept, lost = store.put_bytes(b"kept"), store.put_bytes(b"lost")
    Derived(store).put({"whole": ((kept, 4),), "half": ((kept, 4), (lost, 4))})
    if how == "gone":
        store.path(lost).unlink()
    else:
        store.path(lost).write_bytes(b"l")
    assert Derived(store).get(["whole", "half"]) == {"whole": ((kept, 4),)}


ODD_ROWS = [
    "", "{", "null", "5", "[]", "[1]", '[["x"]]', '[["x", "y"]]', '[["x", 1, 2]]', '{"a": 1}',
    '[["x", null]]', '[["x", NaN]]',
    '[["x", 1e999]]', pytest.param("[" * 100_000, id="deep"),
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_ROWS)
def test_odd_rows_are_as_if_they_were_not_there(store: Store, text: str) -> None:
    blob = store.put_bytes(b"good")
    derived = Derived(store)
    derived.put({"good": ((blob, 4),)})
    assert derived._index is not None
    derived._index.set({"odd": text})
    assert derived.get(["odd", "good"]) == {"good": ((blob, 4),)}


@pytest.mark.parametrize("value", [5, None, 1.5, b"[1]"])
def test_rows_of_another_type_are_as_if_they_were_not_there(store: Store, value: object) -> None:
    derived = Derived(store)
    assert derived._index is not None
    derived._index.set({"odd": value})  # type: ignore[dict-item]
    assert derived.get(["odd"]) == {}


def test_a_result_without_blobs_is_none(store: Store) -> None:
    Derived(store).put({"empty": ()})
    assert Derived(store).get(["empty"]) == {}


def test_a_damaged_index_is_an_empty_one(store: Store) -> None:
    blob = store.put_bytes(b"good")
    Derived(store).put({"good": ((blob, 4),)})
    for file in (store.root / "derived").glob("cache.db*"):
        file.write_bytes(b"not a database at all" * 100)
    derived = Derived(store)
    assert derived.get(["good"]) == {}
    derived.put({"good": ((blob, 4),)})
    assert derived.get(["good"]) == {"good": ((blob, 4),)}


def test_rows_are_json(store: Store) -> None:
    blob = store.put_bytes(b"good")
    derived = Derived(store)
    derived.put({"good": ((blob, 4),)})
    assert derived._index is not None
    assert json.loads(derived._index.get("good") or "") == [[blob, 4]]
