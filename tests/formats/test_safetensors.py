"""Safetensors headers and the digest of a model: the tensors count, however sharded, and what a
loader reads beside them.
"""

from __future__ import annotations

import json
import re
import struct
from math import prod
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.core.hashing import StatMemo
from olivebuild.formats.safetensors import Tensor, sum_of_tensors, tensors_of
from olivebuild.formats.weight_files import (
    WeightFiles,
    ignored_weights,
    model_digest,
    model_files,
    weight_files,
)

Values = dict[str, tuple[str, list[int], bytes]]
WEIGHTS: Values = {
    "embed": ("F32", [2, 1], b"12345678"),
    "layer.q": ("BF16", [2], b"abcd"),
    "layer.k": ("BF16", [2], b"abcd"),
    "empty": ("F32", [0], b""),
}
COMPLETE = "is the download complete?"


def write(
    file: Path, values: Values, metadata: dict[str, str] | None = None, padding: int = 0
) -> None:
    """A safetensors file, written by hand."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, (dtype, shape, data) in values.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode() + b" " * padding
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def raw(file: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return file


def model(folder: Path, *shards: Values) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for i, shard in enumerate(shards):
        write(folder / f"model-{i}.safetensors", shard)
    if shards:
        index(
            folder,
            {name: f"model-{i}.safetensors" for i, shard in enumerate(shards) for name in shard},
            *shards,
        )
    return folder


def index(folder: Path, entries: dict[str, str], *shards: Values) -> None:
    """An index, as transformers writes it."""
    values = [v for shard in shards for v in shard.values()]
    about = {
        "total_parameters": sum(prod(shape) for _, shape, _ in values),
        "total_size": sum(len(data) for _, _, data in values),
    }
    text = json.dumps({"metadata": about, "weight_map": entries}, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(text)


def digest_of(folder: Path, *, code: bool = False) -> str:
    return model_digest(folder, StatMemo(folder.parent / "state" / "stats.json"), code=code)


def test_tensors_are_found_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = (
        b'{"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},'
        b'"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}'
    )
    start = 8 + len(header)
    assert tensors_of(raw(tmp_path / "m.safetensors", header, b"xxyyyy")) == [
        Tensor("a", "I8", (2,), start, start + 2),
        Tensor("b", "F32", (1,), start + 2, start + 6),
    ]


def test_a_file_without_tensors_is_well_formed(tmp_path: Path) -> None:
    assert tensors_of(raw(tmp_path / "m.safetensors", b'{"__metadata__":{"format":"pt"}}')) == []


ONE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("header", "body", "fact", "hint"),
    [
        (ONE, b"123", "the header tells of 66 bytes, the file has 65", COMPLETE),
        (ONE, b"12345", "the header tells of 66 bytes, the file has 67", COMPLETE),
        (
            b'{"a":{}}',
            b"",
            "not a safetensors file: a: Object missing required field `dtype`",
            COMPLETE,
        ),
        (b"[1]", b"", "not a safetensors file: Expected `object`, got `array`", COMPLETE),
        (
            ONE[:-1] + b',"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
            "tensor b does not follow the one before it",
            COMPLETE,
        ),
        (
            ONE[:-1] + b',"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}}',
            b"1234x1234",
            "tensor b does not follow the one before it",
            COMPLETE,
        ),
        (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
            b"",
            "tensor a does not follow the one before it",
            COMPLETE,
        ),
        (
            b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}',
            b"1234",
            "tensor a (F32, 1099511627776 x 1099511627776) does not take the 4 bytes that it has",
            COMPLETE,
        ),
        (
            b'{"a":{"dtype":"X32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
            "tensor a has the type 'X32', which safetensors does not know",
            COMPLETE,
        ),
    ],
)
def test_a_malformed_file_is_told(
    tmp_path: Path, header: bytes, body: bytes, fact: str, hint: str
) -> None:
    file = raw(tmp_path / "m.safetensors", header, body)
    with pytest.raises(InputError) as caught:
        tensors_of(file)
    assert (caught.value.fact, caught.value.hint, str(caught.value.where)) == (
        fact,
        hint,
        str(file),
    )


@pytest.mark.parametrize("length", [55, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(InputError) as caught:
        tensors_of(raw(tmp_path / "m.safetensors", ONE, b"", length))
    assert caught.value.fact == "not a safetensors file: the header is longer than the file"


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
)
def test_what_is_no_safetensors_file_at_all_is_an_error_of_the_input(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(InputError):
        tensors_of(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}',
        b'{"a":{"dtype":5,"shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["0",4]}}',
        b'{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}',
        b'{"a":{"dtype":"\\ud800","shape":[1],"data_offsets":[0,4]}}',
        b'{"\\udfff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\xff\xfe",
        b"{",
    ],
)
def test_an_odd_header_is_an_error_of_the_input(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InputError):
        tensors_of(raw(tmp_path / "m.safetensors", header, b"1234"))


def test_the_sum_does_not_depend_on_order_metadata_or_padding(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", WEIGHTS)
    write(tmp_path / "b.safetensors", dict(reversed(WEIGHTS.items())), {"format": "pt"}, padding=7)
    assert sum_of_tensors(tmp_path / "a.safetensors") == sum_of_tensors(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "shards",
    [
        [["embed"], ["layer.q", "layer.k", "empty"]],
        [["empty", "layer.k"], ["layer.q"], ["embed"]],
        [["layer.k", "empty", "layer.q", "embed"]],
    ],
)
def test_any_sharding_of_the_same_tensors_is_the_same_model(
    tmp_path: Path, shards: list[list[str]]
) -> None:
    whole = model(tmp_path / "whole", WEIGHTS)
    cut = model(tmp_path / "cut", *({name: WEIGHTS[name] for name in shard} for shard in shards))
    assert digest_of(whole) == digest_of(cut)


@pytest.mark.parametrize(
    "changed",
    [
        {"embed": ("F32", [2, 1], b"12345679")},
        {"embed": ("I32", [2, 1], b"12345678")},
        {"embed": ("F32", [1, 2], b"12345678")},
        {"embed": None, "embedding": ("F32", [2, 1], b"12345678")},
        {"layer.q": None},
        {"layer.v": ("BF16", [2], b"abcd")},
        {"empty": None},
    ],
)
def test_another_name_type_shape_or_byte_is_another_model(
    tmp_path: Path, changed: dict[str, tuple[str, list[int], bytes] | None]
) -> None:
    other = {name: value for name, value in {**WEIGHTS, **changed}.items() if value is not None}
    assert digest_of(model(tmp_path / "a", WEIGHTS)) != digest_of(model(tmp_path / "b", other))


def test_tensors_that_swap_their_contents_are_another_model(tmp_path: Path) -> None:
    one: Values = {"a": ("I8", [1], b"x"), "b": ("I8", [1], b"y")}
    other: Values = {"a": ("I8", [1], b"y"), "b": ("I8", [1], b"x")}
    assert digest_of(model(tmp_path / "one", one)) != digest_of(model(tmp_path / "other", other))


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        ".gitattributes",
        "LICENSE",
        "model.onnx",
        "pytorch_model.bin",
        "notes.txt",
        "modeling_x.py",
        "old.safetensors",
    ],
)
def test_what_no_loader_reads_does_not_count(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "m", WEIGHTS)
    before = digest_of(folder)
    (folder / name).write_text("anything")
    assert digest_of(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
        "chat_template.jinja", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "spiece.model",
        "preprocessor_config.json", "processor_config.json",
        "additional_chat_templates/tool_use.jinja", "tekken.json", "bpe.codes",
    ],
)  # fmt: skip
def test_what_a_loader_reads_counts(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "m", WEIGHTS)
    before = digest_of(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("one")
    with_file = digest_of(folder)
    (folder / name).write_text("other")
    assert len({before, with_file, digest_of(folder)}) == 3


def test_the_config_counts(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", WEIGHTS)
    before = digest_of(folder)
    (folder / "config.json").write_text('{"model_type": "phi3"}')
    assert digest_of(folder) != before


def test_code_counts_where_it_is_run(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", WEIGHTS)
    before = digest_of(folder, code=True)
    (folder / "modeling_x.py").write_text("pass")
    assert digest_of(folder, code=True) != before


def test_weights_and_other_files_are_told_apart(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", WEIGHTS, {"x": ("I8", [1], b"1")})
    (folder / "README.md").write_text("x")
    weights, others = model_files(folder)
    assert ([p.name for p in weights], [p.name for p in others]) == (
        ["model-0.safetensors", "model-1.safetensors"],
        ["config.json"],
    )


CONVERT = (
    "olivebuild reads safetensors and GGUF only, since unpickling runs code; convert the "
    "weights to safetensors first"
)


@pytest.mark.parametrize(
    ("files", "fact", "hint"),
    [
        (
            [],
            "not a Hugging Face model folder: config.json is missing",
            "name the folder that holds config.json and the weights",
        ),
        (["config.json"], "no weights in the model folder", CONVERT),
        (
            ["config.json", "pytorch_model.bin"],
            "only pickled weights (pytorch_model.bin) in the model folder",
            CONVERT,
        ),
        (
            ["config.json", "consolidated.pth"],
            "only pickled weights (consolidated.pth) in the model folder",
            CONVERT,
        ),
    ],
)
def test_a_folder_that_is_no_model_is_told(
    tmp_path: Path, files: list[str], fact: str, hint: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError) as caught:
        model_files(tmp_path)
    assert (caught.value.fact, caught.value.hint, str(caught.value.where)) == (
        fact,
        hint,
        str(tmp_path),
    )


# Which weight files count


def test_a_whole_model_comes_before_an_index(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {"a": ("I8", [1], b"x")}, {"b": ("I8", [1], b"y")})
    before = digest_of(folder)
    write(folder / "model.safetensors", WEIGHTS)
    assert weight_files(folder) == WeightFiles(("model.safetensors",))
    assert ignored_weights(folder) == ["model-0.safetensors", "model-1.safetensors"]
    assert digest_of(folder) == digest_of(model(tmp_path / "other", WEIGHTS)) != before


def test_what_config_json_names_comes_before_all(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {"a": ("I8", [1], b"x")})
    write(folder / "model.safetensors", WEIGHTS)
    write(folder / "chosen.safetensors", {"b": ("I8", [1], b"y")})
    (folder / "config.json").write_text('{"transformers_weights": "chosen.safetensors"}')
    assert weight_files(folder) == WeightFiles(("chosen.safetensors",))
    (folder / "model.safetensors.index.json").rename(folder / "chosen.safetensors.index.json")
    (folder / "config.json").write_text('{"transformers_weights": "chosen.safetensors.index.json"}')
    assert weight_files(folder) == WeightFiles(
        ("model-0.safetensors",), "chosen.safetensors.index.json"
    )


def test_a_second_copy_that_swaps_with_the_first_is_another_model(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    write(folder / "model.safetensors", WEIGHTS)
    write(folder / "backup.safetensors", WEIGHTS | {"embed": ("F32", [2, 1], b"87654321")})
    before = digest_of(folder)
    (folder / "model.safetensors").rename(folder / "aside")
    (folder / "backup.safetensors").rename(folder / "model.safetensors")
    (folder / "aside").rename(folder / "backup.safetensors")
    assert digest_of(folder) != before


def test_a_file_outside_the_index_does_not_count(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", WEIGHTS)
    before = digest_of(folder)
    write(folder / "consolidated.safetensors", {"x": ("I8", [1], b"1")})
    assert (digest_of(folder), ignored_weights(folder)) == (before, ["consolidated.safetensors"])


def broken(folder: Path, how: str) -> None:  # noqa: C901 - a branch for each fault
    one: Values = {"a": ("I8", [1], b"x"), "c": ("I8", [1], b"z")}
    model(folder, one, {"b": ("I8", [1], b"y")})
    entries = {"a": "model-0.safetensors", "c": "model-0.safetensors", "b": "model-1.safetensors"}
    place = folder / "model.safetensors.index.json"
    if how == "file":
        (folder / "model-1.safetensors").unlink()
    elif how == "tensor":
        index(folder, entries | {"d": "model-1.safetensors"})
    elif how == "other file":
        index(folder, entries | {"c": "model-1.safetensors"})
    elif how == "twice":
        write(folder / "model-1.safetensors", {"b": ("I8", [1], b"y"), "c": ("I8", [1], b"w")})
    elif how == "outside":
        index(folder, entries | {"b": "../model-1.safetensors"})
    elif how == "pickle":
        index(folder, entries | {"b": "pytorch_model.bin"})
    elif how == "metadata":
        place.write_text(json.dumps({"weight_map": entries}))
    elif how == "no index":
        place.unlink()
    elif how == "ranks":
        write(folder / "shard-00000-model-00001-of-00001.safetensors", one)
    elif how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif how == "named":
        (folder / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    elif how == "named outside":
        (folder / "config.json").write_text('{"transformers_weights": "../m/model-0.safetensors"}')
    else:
        place.write_text(how)


@pytest.mark.parametrize(
    ("how", "fact"),
    [
        ("file", "model-1.safetensors is missing, where the index has b"),
        ("tensor", "the index has d in model-1.safetensors, which does not hold it"),
        (
            "other file",
            "the index has c in model-1.safetensors, but it lies in model-0.safetensors",
        ),
        ("twice", "c lies in two weight files, model-0.safetensors and model-1.safetensors"),
        ("outside", "the index names '../model-1.safetensors'"),
        ("pickle", "the index names 'pytorch_model.bin'"),
        ("metadata", "not an index of weights: 'metadata' is missing"),
        ("{", "not an index of weights: Expecting property name"),
        ("[" * 100_000, "not an index of weights"),
        ('{"metadata": {}, "weight_map": {}}', "not an index of weights: no map"),
        ('{"metadata": {}, "weight_map": {"a": 5}}', "not an index of weights: no map"),
        (
            '{"metadata": null, "weight_map": {"a": "model-0.safetensors"}}',
            "not an index of weights: no map",
        ),
        ("no index", "transformers would not load model-0.safetensors"),
        ("ranks", "shard-00000-model-00001-of-00001.safetensors is the state of a training"),
        ("adapter", "the model folder holds an adapter"),
        ("named", "other.safetensors is missing"),
        ("named outside", "transformers_weights is '../m/model-0.safetensors'"),
    ],
)
def test_a_folder_that_loaders_read_in_different_ways_is_told(
    tmp_path: Path, how: str, fact: str
) -> None:
    broken(tmp_path / "m", how)
    with pytest.raises(InputError, match=re.escape(fact)) as caught:
        digest_of(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value.where)
    assert caught.value.hint
