"""Sequences that are cut from rows, beside what Olive's rules give: its batches of rows with what
they carry on, its ranges, draws and labels, written out here by themselves.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.action import ActionInput
from olivebuild.api.job import Job
from olivebuild.cache.store import Store
from olivebuild.core.errors import InputError
from tests.scenarios.steps import job_in
from tests.support import tokenizers_of
from tests.support.rows import run

pytestmark = pytest.mark.scenario

LENGTH = 16
Expected = list[tuple[list[int], list[int]]]
"""(ids, labels) of each sequence; -100 is no label."""


@pytest.fixture(scope="module", params=sorted(tokenizers_of.STYLES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with a tokenizer of one style, and without weights."""
    import torch
    from safetensors.torch import save_file

    folder: Path = tmp_path_factory.mktemp(request.param) / request.param
    tokenizers_of.write(request.param, folder)
    config = {"model_type": "llama", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def texts(count: int = 40) -> list[str]:
    chance = random.Random(count)
    words = [*" ".join(tokenizers_of.TEXTS).split(), "7", "a\nb", "dog dog"]
    return [" ".join(chance.choices(words, k=chance.randint(1, 9))) for _ in range(count)]


def job_for(folder: Path, model: Path, rows: list[dict[str, Any]], **fields: Any) -> Job:
    """An adapter's job, on the data set that the step makes of the rows, in their order."""
    source = folder / "source"
    source.mkdir(parents=True)
    run(source, rows, **{"holdout": 0, "dedupe": False, "near_duplicates": False, **fields})
    data = ActionInput(str(source / "out"), str(source / "out/train.parquet"), "dataset", "texts")
    inputs = {"model": ActionInput(str(model), str(model), "model", "base"), "data": data}
    places = {"": ["olivebuild.yaml", 7, 3, ""], "sequences": ["olivebuild.yaml", 8, 5, ""]}
    return job_in(folder / "job", Store(folder / "cache"), inputs, places=places)


def fields_of(sequences: Any, **training: Any) -> Any:
    from olivebuild.steps.adapter import STEP, AdapterFields

    if not isinstance(sequences, dict) or sequences["form"] != "pairs":
        training = {"max_length": LENGTH} | training
    asked = {"model": "base", "data": "texts", "sequences": sequences, "training": training}
    fields = AdapterFields.model_validate(asked)
    assert STEP.check(fields) is None
    return fields


def cut(job: Job, sequences: Any, **training: Any) -> Expected:
    """What the tool trains on."""
    from olivebuild.ml.training.training_data import load_data

    rows = load_data(job, fields_of(sequences, **training)).rows
    assert rows.lengths.tolist() == [len(row) for row in rows]
    return [as_labels(row) for row in rows]


def as_labels(row: Any) -> tuple[list[int], list[int]]:
    return row.ids.tolist(), np.where(row.counted, row.ids, -100).tolist()


def tokens_of(model: Path, texts: list[str], *, special: bool) -> list[list[int]]:
    """Texts as Olive has them tokenised."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if special:
        texts = [f"{tokenizer.bos_token} {text} {tokenizer.eos_token}" for text in texts]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def joined(
    rows: list[list[int]], joiner: list[int], step: int, *, batch: int, full: bool
) -> Iterator[list[int]]:
    """Yield blocks as Olive cuts them: some rows at a time, and the rest is carried on."""
    carry: list[int] = []
    for first in range(0, len(rows), batch):
        for ids in rows[first : first + batch]:
            carry = carry + ids + joiner
        end = len(carry) - LENGTH + (1 if full else 0)
        begins = range(0, end, step)
        for begin in begins:
            yield carry[begin : begin + LENGTH]
        carry = carry[len(begins) * step :]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("joiner", ["", "\n\n"])
def test_blocks_are_those_of_joined_batches(
    tmp_path: Path, model: Path, special: bool, joiner: str
) -> None:
    lines = texts()
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = tokens_of(model, lines, special=special)
    join = tokens_of(model, [joiner], special=False)[0] if joiner else []
    if special and model.name == "qwen":
        assert tokens_of(model, ["None "], special=False)[0][0] == rows[0][0]
    asked = {
        "form": "blocks",
        "special_tokens": "spaced" if special else "none",
        **({"joiner": joiner} if joiner else {}),
    }
    total = sum(map(len, rows)) + len(rows) * len(join)
    for remainder, full in (("drop-last", False), ("drop", True)):
        for batch in (1, 7, 1024):
            expected = [(ids, ids) for ids in joined(rows, join, LENGTH, batch=batch, full=full)]
            assert cut(job, asked | {"remainder": remainder}) == expected
        count = total // LENGTH if full else math.ceil((total - LENGTH) / LENGTH)
        assert len(expected) == count > 5
    kept = cut(job, asked)
    assert kept[: len(expected)] == expected
    assert sum(len(ids) for ids, _ in kept) == total
    assert cut(job, asked | {"limit": 3}) == kept[:3]


def test_a_last_block_that_is_full_is_lost_as_in_olive(tmp_path: Path, model: Path) -> None:
    """n tokens give ceil((n - L) / L) blocks, and none where n is L or less."""
    (unit,) = tokens_of(model, ["a"], special=False)
    job = job_for(tmp_path, model, [{"t": "a"}] * 6, text="{t}")
    n = 6 * len(unit)
    blocks = {"form": "blocks", "special_tokens": "none"}
    for length in range(2, n + 3):
        counts = {
            remainder: len(cut(job, blocks | {"remainder": remainder}, max_length=length))
            for remainder in ("drop-last", "drop", "keep")
        }
        # A last block of one token predicts nothing.
        kept = n // length + (n % length > 1)
        lost = max(0, math.ceil((n - length) / length))
        assert counts == {"drop-last": lost, "drop": n // length, "keep": kept}


def test_windows_overlap_in_what_is_not_learnt(tmp_path: Path, model: Path) -> None:
    lines = texts(30)
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = tokens_of(model, lines, special=True)
    for stride in (1, 5, LENGTH):
        asked = {"form": "windows", "special_tokens": "spaced", "stride": stride}
        context = LENGTH - stride
        for batch in (3, 1024):
            expected = [
                (ids, [-100] * context + ids[context:])
                for ids in joined(rows, [], stride, batch=batch, full=False)
            ]
            got = cut(job, asked | {"remainder": "drop-last"})
            # Whose only label is its first token is never predicted.
            assert got == [row for row in expected if any(i >= 0 for i in row[1][1:])]
        whole = [i for ids in rows for i in ids]
        kept = cut(job, asked)
        learnt = [i for _, labels in kept for i in labels if i >= 0]
        assert learnt == whole[context:]


@pytest.mark.parametrize("special", [False, True])
def test_lines_are_cut_after_their_first_tokens(tmp_path: Path, model: Path, special: bool) -> None:
    lines = [*texts(12), "a " * 40]
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = [ids[:LENGTH] for ids in tokens_of(model, lines, special=special)]
    asked = {"form": "lines", "special_tokens": "spaced" if special else "none"}
    expected = [(ids, ids) for ids in rows if len(ids) > 1]
    assert cut(job, asked) == expected
    assert cut(job, asked | {"limit": 5}) == [(ids, ids) for ids in rows[:5] if len(ids) > 1]
    full = [(ids, ids) for ids in rows if len(ids) == LENGTH]
    assert 0 < len(full) < len(expected)
    assert cut(job, asked | {"min_length": LENGTH}) == full


def test_random_blocks_begin_with_rows_that_are_drawn(tmp_path: Path, model: Path) -> None:
    lines = texts(9)
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = tokens_of(model, lines, special=True)
    for retries in (1, 10):
        chance, expected = random.Random(42), []
        for _ in range(12):
            for _ in range(retries):
                begin, ids = chance.randint(0, len(rows) - 1), list[int]()
                for row in rows[begin:]:
                    ids += row
                    if len(ids) >= LENGTH:
                        break
                if len(ids) >= LENGTH:
                    expected.append((ids[:LENGTH], ids[:LENGTH]))
                    break
        asked = {"form": "random-blocks", "limit": 12, "seed": 42, "special_tokens": "spaced"}
        assert cut(job, asked | {"retries": retries}) == expected


def test_random_lines_are_rows_with_replacement(tmp_path: Path, model: Path) -> None:
    lines = [*texts(9), "a " * 40]
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = tokens_of(model, lines, special=True)
    chance = random.Random(3)
    drawn = [rows[chance.randint(0, len(rows) - 1)][:LENGTH] for _ in range(20)]
    asked = {"form": "random-lines", "limit": 20, "seed": 3, "special_tokens": "spaced"}
    assert cut(job, asked) == [(ids, ids) for ids in drawn]
    long = cut(job, asked | {"min_length": LENGTH})
    assert {len(ids) for ids, _ in long} == {LENGTH}


@pytest.mark.parametrize("loss", ["completion", "all"])
def test_pairs_are_cut_apart(tmp_path: Path, model: Path, loss: str) -> None:
    pairs = [{"p": a, "c": b} for a, b in zip(texts(15), texts(15)[::-1], strict=True)]
    job = job_for(tmp_path, model, pairs, prompt="{p}", completion="{c}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    expected = []
    for pair in pairs:
        source = ids_of(f"{tokenizer.bos_token} {pair['p']}")[:9]
        target = ids_of(f"{pair['c']} {tokenizer.eos_token}")[:7]
        labels = [-100] * len(source) if loss == "completion" else source
        expected.append(([*source, *target], [*labels, *target]))
    asked = {"form": "pairs", "prompt_length": 9, "completion_length": 7}
    assert cut(job, asked | {"special_tokens": "spaced"}, loss=loss) == expected


def test_padding_is_neither_attended_to_nor_learnt(tmp_path: Path, model: Path) -> None:
    from olivebuild.ml.data.sequences import has_masked
    from olivebuild.ml.training.training_data import load_data

    lines = texts(20)
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    ids = [i for row in tokens_of(model, lines, special=True) for i in row]
    asked = {"form": "blocks", "special_tokens": "spaced", "mask_padding": True}
    data = load_data(job, fields_of(asked | {"remainder": "drop"}))
    pad = data.encoder.tokenizer.pad_token_id
    assert has_masked(data.rows) == (model.name == "phi")
    for n, row in enumerate(data.rows):
        block = ids[n * LENGTH : (n + 1) * LENGTH]
        while block[-1] == pad:
            block = block[:-1]
        assert row.ids.tolist() == block
        attended = row.attended if row.attended is not None else np.ones(len(row), bool)
        assert attended.tolist() == [i != pad for i in block]
        assert row.counted.tolist() == [i != pad for i in block]
    # Of a line, the end alone is masked, and nothing comes after it.
    lines_alone = load_data(job, fields_of(asked | {"form": "lines"})).rows
    assert not has_masked(lines_alone)
    assert (data.stream.ends == []) == (model.name == "phi")


def test_held_out_sequences_are_those_of_the_library_datasets(tmp_path: Path, model: Path) -> None:
    """default_rng(seed).permutation: the held-out ones come first, the rest in its order."""
    from olivebuild.ml.training.training_data import load_data

    job = job_for(tmp_path, model, [{"t": text} for text in texts()], text="{t}")
    blocks = {"form": "blocks", "special_tokens": "spaced", "remainder": "drop"}
    whole = cut(job, blocks)
    for size, held in ((0.3, math.ceil(0.3 * len(whole))), (4, 4), (1, 1)):
        order = np.random.default_rng(42).permutation(len(whole)).tolist()
        data = load_data(job, fields_of(blocks | {"holdout": size}, data_seed=42, seed=7))
        assert data.held_out is not None
        assert [as_labels(row) for row in data.held_out] == [whole[i] for i in order[:held]]
        assert [as_labels(row) for row in data.rows] == [whole[i] for i in order[held:]]
    with pytest.raises(InputError, match="leaves none to train on"):
        load_data(job, fields_of(blocks | {"holdout": len(whole)}))


@pytest.mark.parametrize(
    ("count", "size", "seed", "train", "held"),
    [
        (4, 0.3, 42, [1, 0], [3, 2]),
        (8, 0.3, 42, [7, 6, 1, 5, 0], [3, 4, 2]),
        (10, 3, 7, [1, 3, 6, 2, 4, 5, 9], [8, 0, 7]),
        (4, 1, 42, [2, 1, 0], [3]),
    ],
)
def test_the_library_datasets_split_so(
    count: int, size: float, seed: int, train: list[int], held: list[int]
) -> None:
    """Written down from datasets 5.2.0: from_dict(...).train_test_split(size, seed=seed)."""
    from olivebuild.ml.data.sequences import hold_out

    assert [part.tolist() for part in hold_out(count, size, seed)] == [train, held]


def test_texts_begin_and_end_as_rows_do_where_nothing_is_said(tmp_path: Path, model: Path) -> None:
    lines = texts(8)
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    rows = [ids for ids, _ in cut(job, "rows", max_length=1000)]
    (block,) = cut(job, "blocks", max_length=1000)
    assert block[0] == block[1] == [i for ids in rows for i in ids]


@pytest.mark.parametrize("special", ["none", "tokenizer"])
def test_conversations_are_joined_as_the_template_writes_them(
    tmp_path: Path, model: Path, special: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    chats = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]
        for text in texts(10)
    ]
    job = job_for(tmp_path, model, [{"m": chat} for chat in chats], messages="m")
    whole = [
        i
        for chat in chats
        for i in tokenizer(
            tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False
        )["input_ids"]
    ]
    (block,) = cut(job, {"form": "blocks", "special_tokens": special}, max_length=2000)
    assert block == (whole, whole)


def test_prompt_and_completion_are_one_text(tmp_path: Path, model: Path) -> None:
    pairs = [{"p": f"{text} is ", "c": "the dog"} for text in texts(10)]
    job = job_for(tmp_path / "pairs", model, pairs, prompt="{p}", completion="{c}")
    same = [{"t": pair["p"] + pair["c"]} for pair in pairs]
    other = job_for(tmp_path / "texts", model, same, text="{t}")
    for special in ("none", "spaced", "tokenizer"):
        asked = {"form": "blocks", "special_tokens": special}
        assert cut(job, asked) == cut(other, asked)


def test_tokens_of_texts_are_kept(tmp_path: Path, model: Path) -> None:
    """A form that is cut otherwise from the same texts has nothing tokenised again."""
    from olivebuild.ml.training.training_data import load_data

    job = job_for(tmp_path, model, [{"t": text} for text in texts()], text="{t}")
    spaced = {"special_tokens": "spaced"}
    assert load_data(job, fields_of(spaced | {"form": "blocks"})).stream.known == 0
    assert load_data(job, fields_of(spaced | {"form": "lines"}, max_length=9)).stream.known == 1
    assert load_data(job, fields_of({"form": "blocks"})).stream.known == 0
    assert load_data(job, fields_of("rows")).stream.known == 0


def checked(job: Job, fields: Any) -> dict[str, Any]:
    from olivebuild.ml.training.training_data import check_data, load_data

    data = load_data(job, fields)
    return check_data(job, fields, data, "data", "data", name="drops") | data.figures(fields)


def notes(job: Job) -> list[str]:
    return [json.loads(line).get("text", "") for line in job._stream.getvalue().splitlines()]


def test_what_is_trained_on_is_said(tmp_path: Path, model: Path) -> None:
    lines = [*texts(20), "a " * 40]
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    n = sum(map(len, tokens_of(model, lines, special=True)))
    asked = {"form": "blocks", "special_tokens": "spaced", "remainder": "drop"}
    figures = checked(job, fields_of(asked | {"holdout": 2}))
    assert figures == {
        "sequences": n // LENGTH - 2,
        "sequence_tokens": (n // LENGTH - 2) * LENGTH,
        "sequences_held_out": 2,
        "tokens_left_out": n % LENGTH,
    }
    said = "\n".join(notes(job))
    count = n // LENGTH - 2
    assert (
        f"{count} sequences of up to {LENGTH} tokens (blocks), {count * LENGTH} tokens together, "
        "from 21 rows"
    ) in said
    assert "2 sequences are held out, and nothing judges them" in said
    assert ("has no bos_token: each text begins with the letters None" in said) == (
        model.name == "qwen"
    )
    # Being cut is what the recipe asks for: no limit is held against it.
    figures = checked(job, fields_of({"form": "lines", "special_tokens": "none"}, max_length=2))
    assert figures["drops"][0]["cut"] is True
    assert figures["drops"][0]["fault"] is False


@pytest.mark.parametrize(
    ("sequences", "what"),
    [
        ({"form": "blocks", "remainder": "drop"}, "block of 500"),
        ({"form": "blocks", "remainder": "drop-last"}, "block of 500"),
        ({"form": "windows", "stride": 9}, "window of 500"),
        ({"form": "random-blocks", "limit": 3}, "block of 500"),
        ({"form": "lines", "min_length": 500}, "line to learn from"),
    ],
)
def test_no_sequence_is_one_error_before_training(
    tmp_path: Path, model: Path, sequences: dict[str, Any], what: str
) -> None:
    lines = texts(5)
    job = job_for(tmp_path, model, [{"t": text} for text in lines], text="{t}")
    n = sum(map(len, tokens_of(model, lines, special=False)))
    with pytest.raises(InputError) as e:
        checked(job, fields_of(sequences | {"special_tokens": "none"}, max_length=500))
    assert e.value.fact == f"{n} tokens of 5 rows give no {what}"
    assert e.value.hint
    assert str(e.value.where).startswith("olivebuild.yaml:7")
