"""Rows as they are found: formats, encodings, values of all types, conversations of several
schools, and what is dropped.
"""

from __future__ import annotations

import codecs
import datetime
import gzip
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.core import hashing
from olivebuild.core.errors import InputError, Where
from olivebuild.data.conversation import conversation, conversation_of
from olivebuild.data.origins import origins_of
from olivebuild.data.readers import Read, read_file
from olivebuild.data.templates import columns_in, fill
from olivebuild.ml.inference.predict import Form, read_rows
from olivebuild.ml.kinds import dataset as dataset_kind
from olivebuild.ml.kinds.dataset import look_alikes
from olivebuild.steps.dataset import STEP, DatasetFields
from tests.conftest import Place
from tests.data.test_rows import render


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    notes: list[str] = []
    return [r.columns for r in read_file(path, path.name, notes.append)], notes


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


# Files

ROWS = [{"text": f"Zoë sent {n}", "label": "a"} for n in range(3)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.ndjson", JSONL.encode(), ""),
        ("a.json", json.dumps({"data": ROWS}).encode(), ""),
        (
            "a.json",
            json.dumps({"features": ["text"], "data": ROWS}).encode(),
            "features is not read",
        ),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0), ""),
        ("A.JSONL.GZ", gzip.compress(JSONL.encode(), mtime=0) + gzip.compress(b"", mtime=0), ""),
        ("a.csv.zst", zstd(CSV.encode()), ""),
        ("a.json.zst", zstd(json.dumps(ROWS).encode()), ""),
        ("a.tsv.gz", gzip.compress(CSV.replace(",", "\t").encode(), mtime=0), ""),
        ("a.csv", CSV.replace(",", ";").encode(), "separated by semicolons"),
        ("a.csv", CSV.replace(",", "\t").encode(), "separated by tabs"),
        ("a.tsv", CSV.encode(), "separated by commas"),
        ("a.csv", b"sep=;\r\n" + CSV.replace(",", ";").encode(), "separated by semicolons"),
        ("a.csv", codecs.BOM_UTF8 + CSV.encode(), ""),
        ("a.csv", CSV.encode("utf-16"), "UTF-16"),
        ("a.csv", codecs.BOM_UTF16_BE + CSV.encode("utf-16-be"), "UTF-16"),
        ("a.jsonl", JSONL.encode("utf-16"), "UTF-16"),
        ("a.csv", CSV.encode("cp1252"), "Windows-1252"),
        (
            "a.csv.gz",
            gzip.compress(CSV.replace(",", ";").encode("cp1252"), mtime=0),
            "Windows-1252",
        ),
    ],
)
def test_rows_are_read_as_programs_write_them(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    rows, notes = read(tmp_path / name)
    assert rows == ROWS
    assert said in " ".join(notes)
    assert bool(notes) == bool(said)


@pytest.mark.parametrize(
    ("name", "data", "fact"),
    [
        (
            "a.csv",
            "text,label\n\u043f\u0440\u0438\u0432\u0435\u0442,a\n".encode("cp1251"),
            "not UTF-8 text",
        ),
        ("a.csv", "text,label\n日本語のテキスト,a\n".encode("shift-jis"), "not UTF-8 text"),
        ("a.csv", "text,label\nZoë,a\n".encode() + b"Zo\xeb,b\n", "not UTF-8 text"),
        ("a.csv", CSV.encode()[:-10] + b"\xc3", "not UTF-8 text"),
        ("a.csv", codecs.BOM_UTF16_LE + b"a\0b", "not UTF-16 text"),
        (
            "a.jsonl.gz",
            gzip.compress(JSONL.encode(), mtime=0)[:-12],
            "the packed file can't be read",
        ),
        ("a.jsonl.gz", JSONL.encode(), "the packed file can't be read"),
        ("a.jsonl.zst", zstd(JSONL.encode())[:-9], "the packed file can't be read"),
        ("a.jsonl.zst", b"no zstd at all", "the packed file can't be read"),
        ("a.json", b'{"a": 1e400}', "not valid JSON: the number 1e400 is too large"),
        ("a.jsonl", b'{"a": [-1e999]}', "not valid JSON: the number -1e999 is too large"),
        (
            "a.json",
            b'{"text": ["a"], "label": ["b"]}',
            "not a list of rows but of columns: text, label",
        ),
        (
            "a.jsonl",
            gzip.compress(JSONL.encode(), mtime=0),
            "the file is packed, and its name does not say so",
        ),
        ("a.csv", zstd(CSV.encode()), "the file is packed, and its name does not say so"),
        ("a.jsonl", JSONL.encode("utf-16-le"), "it may be UTF-16 without a byte order mark"),
        ("a.csv", CSV.encode("utf-16-be"), "it may be UTF-16 without a byte order mark"),
        ("a.parquet.gz", b"", "files of type .gz are not read"),
    ],
)
def test_what_can_not_be_read_rightly_is_an_error(
    tmp_path: Path, name: str, data: bytes, fact: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=fact) as caught:
        read(tmp_path / name)
    assert str(caught.value.where).startswith(name)


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.json.zst", zstd)])
def test_a_packed_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack(b" " * (100 << 20)))
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        read(tmp_path / name)


def test_a_comma_in_a_text_makes_no_other_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nfirst; second\nthird; fourth\n")
    assert read(tmp_path / "a.csv") == ([{"text": "first; second"}, {"text": "third; fourth"}], [])


# Values


def labels(*values: Any, kind: Any = None, tmp_path: Path) -> tuple[list[str], list[str]]:
    """The labels of a parquet column, and why rows were dropped."""
    pq.write_table(
        pa.table({"t": [f"row {i}" for i in range(len(values))], "l": pa.array(values, kind)}),
        tmp_path / "a.parquet",
    )
    rows, report = render(
        [r.columns for r in read_file(tmp_path / "a.parquet", "a.parquet")],
        prompt="{t}",
        completion="{l}",
    )
    return [r.label for r in rows], [d["why"] for d in report["drops"]]


NOON = datetime.datetime(2024, 5, 1, 12, 0, 30)


@pytest.mark.parametrize(
    ("values", "kind", "texts", "why"),
    [
        ([0.0, 1.0, None, 2.0], None, ["0", "1", "2"], ["no value for l"]),
        ([0.0, float("nan"), 2.0], None, ["0", "2"], ["no value for l"]),
        ([0.5, 1.0, float("inf")], None, ["0.5", "1.0"], ["l is infinite"]),
        ([0.1, 2.5], pa.float32(), ["0.1", "2.5"], []),
        ([1, 2**62], None, ["1", str(2**62)], []),
        ([True, False], None, ["true", "false"], []),
        ([Decimal("1.10"), Decimal("2.00")], None, ["1.10", "2.00"], []),
        ([datetime.date(2024, 5, 1)], None, ["2024-05-01"], []),
        (
            [datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 2), None],
            None,
            ["2024-05-01", "2024-05-02"],
            ["no value for l"],
        ),
        (
            [datetime.datetime(2024, 5, 1), NOON],
            None,
            ["2024-05-01T00:00:00", "2024-05-01T12:00:30"],
            [],
        ),
        ([datetime.time(8, 30)], None, ["08:30:00"], []),
        ([b"x"], None, [], ["l is not text but bytes"]),
        ([["x"]], None, [], ["l is not text but a list"]),
        ([{"x": 1}], None, [], ["l is not text but an object"]),
        ([datetime.timedelta(1)], None, [], ["l is not text but a duration"]),
    ],
)
def test_values_are_the_text_that_a_person_would_write(
    tmp_path: Path, values: list[Any], kind: Any, texts: list[str], why: list[str]
) -> None:
    assert labels(*values, kind=kind, tmp_path=tmp_path) == (texts, why)


def test_a_number_keeps_all_its_digits(tmp_path: Path) -> None:
    given = [
        "12345678901234567890",
        "0.12345678901234567890",
        "-1.00000000000000000001",
        "0.1",
        "100000000000000000000.5",
    ]
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"t": "row {i}", "l": {text}}}\n' for i, text in enumerate(given))
    )
    rows, _ = render(
        [r.columns for r in read_file(tmp_path / "a.jsonl", "a.jsonl")],
        prompt="{t}",
        completion="{l}",
    )
    assert [r.label for r in rows] == given
    # Elsewhere it is the number that it is.
    assert (
        json.dumps(read(tmp_path / "a.jsonl")[0][1]) == '{"t": "row 1", "l": 0.12345678901234568}'
    )


def test_labels_that_look_alike_are_found() -> None:
    found = look_alikes(
        [
            "joy",
            "Joy",
            " joy",
            "sad",
            "caf\u00e9",
            "cafe\u0301",
            "\uff46ear",
            "fear",
            "zero\u200bwidth",
            "zerowidth",
            "",
        ]
    )
    assert found == [
        [" joy", "Joy", "joy"],
        ["cafe\u0301", "caf\u00e9"],
        ["fear", "\uff46ear"],
        ["zerowidth", "zero\u200bwidth"],
    ]


# Optional columns


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{a}\n{b?}.", "B", "A\nB."),
        ("{a}\n{b?}.", None, "A\n."),
        ("{a}\n{b?Input: {}\n}.", "B", "A\nInput: B\n."),
        ("{a}\n{b?Input: {}\n}.", " ", "A\n."),
        ("{a}\n{b?see below }.", "B", "A\nsee below ."),
        ('{{"x": "{a}", "y": "{b?}"}}', "{a}", '{"x": "A", "y": "{a}"}'),
        ("{a}{b?{}}}}", "B", "AB}"),
    ],
)
def test_an_optional_column_may_be_empty(template: str, value: str | None, text: str) -> None:
    assert fill(template, {"a": "A", "b": value}) == text
    assert columns_in(template) == ["a"]


@pytest.mark.parametrize(
    ("template", "column"),
    [
        ("{why?}", "why?"),
        ("{text {{raw}}}", "text {raw}"),
        ('{{"q": {n}}}', "n"),
        ("{a?b}", "a?b"),
        ("{x{{}", "x{"),
    ],
)
def test_a_name_with_braces_or_a_question_mark_is_a_name_where_the_data_has_it(
    template: str, column: str
) -> None:
    text = fill(template, {column: "V"})
    assert text in ("V", '{"q": V}')
    assert columns_in(template, [column]) == [column]


def test_rows_with_an_empty_optional_column_are_kept() -> None:
    data: list[dict[str, Any]] = [
        {"i": "do", "x": None, "o": "1"},
        {"i": "do", "x": "it", "o": "2"},
        {"i": "go", "o": "3"},
        {"i": "", "x": "it", "o": "4"},
    ]
    rows, report = render(data, prompt="{i}{x?\n{}}", completion="{o}")
    assert [(r.values["prompt"], r.label, r.content) for r in rows] == [
        ("do", "1", "do"),
        ("do\nit", "2", "do\nit"),
        ("go", "3", "go"),
    ]
    assert report["drops"] == [
        {"why": "no value for i", "count": 1, "first": "a.jsonl:4", "fault": True}
    ]


def test_a_text_around_a_column_holds_no_other() -> None:
    with pytest.raises(InputError, match="can't hold another column"):
        render([{"i": "do", "x": "it"}], text="{x?Do {i}: {}}")


def test_a_prompt_of_optional_columns_that_are_all_empty_is_dropped() -> None:
    rows, report = render(
        [{"x": "", "o": "1"}, {"x": "it", "o": "1"}], prompt="{x?}", completion="{o}"
    )
    assert (len(rows), [d["why"] for d in report["drops"]]) == (1, ["prompt is empty"])


# Conversations

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": ["A"]},
            ],
            [Q, A],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"text": "Q", "type": "input_text"}, {"type": "text", "text": "!"}],
                }
            ],
            [Q | {"content": "Q!"}],
        ),
        (json.dumps([Q, A]), [Q, A]),
        ({"messages": [Q, A]}, [Q, A]),
        ([{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], [Q, A]),
        (
            [
                {"from": "system", "value": "S"},
                {"from": "User", "value": "Q"},
                {"from": "model", "value": "A"},
            ],
            [{"role": "system", "content": "S"}, Q, A],
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
            [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        ),
        (
            [
                {
                    "from": "function_call",
                    "value": '{"name": "weather", "arguments": {"city": "Oslo"}}',
                },
                {"from": "observation", "value": "cold"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "type": "function",
                            "function": {"name": "weather", "arguments": {"city": "Oslo"}},
                        }
                    ],
                },
                {"role": "tool", "content": "cold"},
            ],
        ),
        (
            [
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "name": "weather", "content": "cold"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": CALL["function"]}],
                },
                {"role": "tool", "content": "cold", "name": "weather"},
            ],
        ),
        (
            [{"role": "tool", "content": "cold", "tool_call_id": "c1", "tool_calls": None}],
            [{"role": "tool", "content": "cold", "tool_call_id": "c1"}],
        ),
        ([A | {"reasoning_content": "hm"}], [A | {"reasoning_content": "hm"}]),
        (
            [A | {"reasoning": "hm"}, A | {"thinking": "hm"}],
            [A | {"reasoning_content": "hm"}, A | {"thinking": "hm"}],
        ),
        (
            [
                {"role": "developer", "content": "S"},
                {"role": "Human", "value": "Q"},
                {"role": "ipython", "content": "3"},
                {"role": "bot", "value": "A"},
            ],
            [{"role": "system", "content": "S"}, Q, {"role": "tool", "content": "3"}, A],
        ),
        (
            {"from": ["human", "gpt"], "value": ["Q", "A"], "weight": [None, 0.0]},
            [Q, A | {"weight": 0}],
        ),
        (
            [
                A | {"weight": 0},
                A | {"train": False},
                A | {"weight": 1},
                A | {"weight": 0.0, "train": True},
            ],
            [A | {"weight": 0}, A | {"weight": 0}, A, A | {"weight": 0}],
        ),
    ],
)
def test_conversations_of_several_schools_are_one(given: object, messages: object) -> None:
    assert conversation(given, "chat") == messages


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "a message has a part of type image_url, which is no text",
        ),
        ([{"from": "narrator", "value": "Q"}], "a message is from none of human, user"),
        (
            [{"role": "narrator", "content": "Q"}],
            "the role of a message is 'narrator', none of system, user, assistant, tool",
        ),
        ({"role": ["user"], "content": ["Q", "A"]}, "chat is not a list of messages"),
        ([{"role": "assistant", "content": None}], "a message needs a role"),
        (
            [{"role": "assistant", "tool_calls": [{"id": 1}]}],
            "a call of a tool needs a function with a name",
        ),
        ([A | {"weight": 0.5}], "the weight of a message is neither 0 nor 1"),
        ([A | {"train": "no"}], "`train` of a message is neither true nor false"),
        ("[{'role': 'user'}]", "chat is text that is no valid JSON"),
    ],
)
def test_a_conversation_that_is_not_understood_says_why(given: object, why: str) -> None:
    found = conversation(given, "chat")
    assert isinstance(found, str)
    assert found.startswith(why)


def test_tools_stand_beside_the_messages() -> None:
    data: list[dict[str, Any]] = [
        {"m": [Q, A], "tools": [TOOL]},
        {"m": [Q, A | {"content": "B"}], "functions": [TOOL["function"]]},
        {"m": [Q, A | {"content": "C"}], "tools": "[]"},
        {"m": [Q, A | {"content": "D"}], "tools": [TOOL["function"]]},
    ]
    rows, _ = render(data, messages="m")
    assert [json.loads(r.values.get("tools", "null")) for r in rows] == [
        [TOOL],
        [TOOL],
        None,
        [TOOL],
    ]
    rows, report = render([{"m": [Q, A], "tools": "{"}], messages="m")
    assert (rows, report["drops"][0]["why"]) == ([], "the tools are not a list of objects")


def test_a_system_message_beside_the_others_is_the_first_and_what_is_not_read_is_told(
    tmp_path: Path,
) -> None:
    system = {"role": "system", "content": "S"}
    rows: list[dict[str, Any]] = [
        {"m": [Q, A | {"content": f"{n}"}], "system": "be brief"} for n in range(9)
    ]
    rows[0]["m"] = [system, *rows[0]["m"]]
    rows[1]["m"][1] |= {"refusal": "no", "annotations": []}
    _, notes = run(tmp_path, rows, messages="m", holdout=0, near_duplicates=False)
    assert (
        "the column `system` of 9 rows is their first message, where they do not begin with one"
        in notes
    )
    assert "messages have `refusal` (in 1 rows), which is not read" in notes
    first = [
        json.loads(row["messages"])[0]
        for row in pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    ]
    assert first == [system, *([system | {"content": "be brief"}] * 8)]
    # As it is asked.
    assert conversation_of({"m": [Q], "system": "be brief"}, "m") == [
        system | {"content": "be brief"},
        Q,
    ]
    assert (
        conversation_of({"system": [Q]}, "system")
        == conversation_of({"m": [Q], "system": " "}, "m")
        == [Q]
    )


def test_labels_of_missing_values_and_numbers_that_have_names_are_told(tmp_path: Path) -> None:
    rows = [row | {"a": "nan" if n % 2 else "NA"} for n, row in enumerate(plain(8))]
    _, notes = run(tmp_path, rows, **ASKED)
    assert (
        "labels that programs write where a value is missing: 'NA' (4 rows), 'nan' (4 rows)"
        in notes
    )
    features = {
        "q": {"dtype": "string", "_type": "Value"},
        "a": {"names": ["no", "yes"], "_type": "ClassLabel"},
    }
    table = pa.table({"q": ["x", "y"], "a": [0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (
        [{"q": "x", "a": 0}, {"q": "y", "a": 1}],
        ["a.parquet: the numbers of a stand for no, yes; they are read as numbers"],
    )


def test_a_conversation_without_a_turn_to_learn_is_dropped_without_a_fault() -> None:
    _, report = render([{"m": [Q, A | {"weight": 0}]}, {"m": [Q, A]}], messages="m")
    assert [(d["count"], d["fault"]) for d in report["drops"]] == [(1, False)]


def test_structs_of_parquet_lose_what_stands_there_for_other_rows(tmp_path: Path) -> None:
    chat = [
        Q | {"content": None, "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    pq.write_table(pa.table({"m": [chat]}), tmp_path / "a.parquet")
    (row,), _ = read(tmp_path / "a.parquet")
    assert row["m"] == [{"role": "user"}, {"role": "assistant", "tool_calls": [CALL]}]


# The step


def run(
    folder: Path,
    rows: list[dict[str, Any]],
    test: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> tuple[Job, list[str]]:
    files = {}
    for name, data in (("source", rows), ("test", test)):
        if data is not None:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
            files[f"{name}.0"] = [str(folder / f"{name}.jsonl")]
    out = folder / "out"
    out.mkdir(exist_ok=True)
    given = {"source": "source.jsonl", **({"test": "test.jsonl"} if test else {}), **fields}
    action = Action(
        "rows",
        "rows",
        "dataset",
        "",
        given,
        {},
        files,
        str(folder),
        str(out),
        places={"": ["olivebuild.yaml", 2, 3, ""]},
    )
    job, stream = Job(action, io.StringIO()), io.StringIO()
    job._stream = stream
    job.log = str(folder / "rows.log")
    dataset_kind.run(job)
    return job, [
        e["text"] for e in map(json.loads, stream.getvalue().splitlines()) if e["event"] == "note"
    ]


ASKED: dict[str, Any] = {"prompt": "{q}", "completion": "{a}"}


def plain(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {"q": f"q{n}x{n * 7} y{n * 3}", "a": "yes" if n % 2 else "no"}
        for n in range(first, first + count)
    ]


def test_drops_are_told_with_reasons_counts_and_places(tmp_path: Path) -> None:
    job, notes = run(tmp_path, [*plain(38), {"q": "", "a": "no"}, {"q": "x", "a": None}], **ASKED)
    told = (
        "2 of 40 rows dropped: 1 x no value for q (first source.jsonl:39); 1 x no value for a "
        "(first source.jsonl:40)"
    )
    assert told in notes
    metrics: Any = job.result.metrics
    assert [(d["why"], d["count"]) for d in metrics["drops"]] == [
        ("no value for q", 1),
        ("no value for a", 1),
    ]
    assert metrics["dropped"] == 2


def test_more_drops_than_are_allowed_fail_and_leave_a_report(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(tmp_path, [*plain(17), *({"q": "", "a": "no"} for _ in range(3))], **ASKED)
    assert str(caught.value.where) == "source.jsonl:18"
    assert caught.value.fact == "3 of 20 rows dropped: 3 x no value for q (first source.jsonl:18)"
    assert "max_dropped: 0.15" in caught.value.hint
    assert "rows.report.json" in caught.value.hint
    assert json.loads((tmp_path / "rows.report.json").read_text())["drops"][0]["count"] == 3
    _, notes = run(
        tmp_path, [*plain(17), *({"q": "", "a": "no"} for _ in range(3))], max_dropped=0.15, **ASKED
    )
    assert caught.value.fact in notes
    assert not (tmp_path / "rows.report.json").exists()


def test_a_row_that_moves_is_the_same_row(tmp_path: Path) -> None:
    rows, digests, origins = plain(10), [], []
    for lines in (0, 3):
        job, _ = run(tmp_path, rows, **ASKED)
        if lines:
            (tmp_path / "source.jsonl").write_text(
                "\n" * lines + (tmp_path / "source.jsonl").read_text()
            )
            dataset_kind.run(job)
        digests.append(job.result.digests)
        asked = [
            {"q": row["prompt"], "a": row["completion"]}
            for row in pq.read_table(tmp_path / "out/train.parquet").to_pylist()
        ]
        origins.append(origins_of(tmp_path / "out/train.parquet"))
        assert [str(origins[-1].of(i)) for i in range(len(asked))] == [
            f"source.jsonl:{rows.index(row) + 1 + lines}" for row in asked
        ]
        # As it was before there were origins: what is made of the whole folder is not made again
        # for them.
        files = [
            tmp_path / "out" / name for name in ("report.json", "test.parquet", "train.parquet")
        ]
        assert (
            digests[-1][""]
            == Manifest(
                tuple(
                    Entry.of_runs(p.name, [(hashing.of_file(p), p.stat().st_size)]) for p in files
                )
            ).digest
        )
    assert digests[0] == digests[1]
    assert origins[0] != origins[1]
    assert origins[0].of(10) is None
    assert origins_of(tmp_path / "elsewhere/test.parquet").max_dropped == 0.05


def test_duplicates_and_turns_without_weight_do_not_fail(tmp_path: Path) -> None:
    chats = [
        {"m": [{"role": "user", "content": f"q{n} a{n * 5}"}, A | ({"weight": 0} if n % 2 else {})]}
        for n in range(20)
    ]
    _, notes = run(tmp_path, [*chats, *chats], messages="m")
    assert any(
        n.startswith("20 of 40 rows dropped: 20 x every turn of the assistant has weight 0")
        for n in notes
    )


def test_a_test_file_that_holds_training_rows_is_told(tmp_path: Path) -> None:
    rows = [
        {"q": f"{w} one two three four five six seven eight nine", "a": "yes"}
        for w in ("red", "dog", "sky")
    ]
    test = [rows[0], rows[1] | {"q": rows[1]["q"] + " ten"}, {"q": "something else", "a": "no"}]
    _, notes = run(tmp_path, rows, test, near_duplicates=True, **ASKED)
    assert any(
        "2 of 3 test rows are near a row of train, 1 of them to the letter" in n for n in notes
    )
    with pytest.raises(InputError, match="2 of 3 test rows are near a row of train"):
        run(tmp_path, rows, test, strict=True, **ASKED)


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    rows = [row | {"who": f"customer {n // 5}"} for n, row in enumerate(plain(60))]
    run(tmp_path, rows, group_by="who", holdout=0.3, **ASKED)
    test = {r["prompt"] for r in pq.read_table(tmp_path / "out/test.parquet").to_pylist()}
    split = [{row["q"] in test for row in rows[i : i + 5]} for i in range(0, 60, 5)]
    assert all(len(found) == 1 for found in split)
    assert {True} in split
    assert {False} in split


@pytest.mark.parametrize(
    "fields", [{"near_duplicates": False}, {"near_duplicates": False, "group_by": "a"}]
)
def test_one_group_is_an_error_that_says_what_to_set(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    words = list("abcdefghijklmnopqrstuv")
    rows = [
        {"q": " ".join([*words[:n], f"w{n}", *words[n + 1 :]]), "a": f"{n % 2}"}
        for n in range(len(words))
    ]
    with pytest.raises(InputError) as caught:
        run(tmp_path, rows, **ASKED)
    assert caught.value.fact.startswith(
        "no row is held out with holdout 0.2: the 22 rows are one group of near-duplicates"
    )
    assert "near_duplicates: false" in caught.value.hint
    job, _ = run(tmp_path, rows, **fields, **ASKED)
    metrics: Any = job.result.metrics
    assert min(metrics["test"], metrics["train"]) > 0


def test_a_side_that_is_empty_by_chance_gets_the_nearest_group(tmp_path: Path) -> None:
    for seed in range(12):
        job, _ = run(tmp_path, plain(3), seed=seed, **ASKED)
        metrics: Any = job.result.metrics
        assert min(metrics["test"], metrics["train"]) > 0


def test_new_fields_at_their_defaults_are_no_parameters() -> None:
    given = {"source": "a.jsonl", "text": "{a}"}
    named = set(STEP.parameters(DatasetFields.model_validate(given)))
    assert not named & {"near_duplicates", "group_by", "max_dropped", "strict"}
    assert set(
        STEP.parameters(DatasetFields.model_validate(given | {"group_by": "a"}))
    ) - named == {"group_by"}


def test_drops_are_in_status_and_in_each_form_of_the_report(place: Place) -> None:
    (place.folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*plain(60), {"q": "", "a": "no"}])
    )
    place.recipe.write_text(
        'targets:\n  rows: {kind: dataset, source: rows.jsonl, prompt: "{q}", completion: "{a}"}\n'
    )
    assert place.build().ran == ["rows"]
    told = "1 of 61 rows dropped: 1 x no value for q (first rows.jsonl:61)"
    assert told in place.run("status").out
    assert json.loads(place.run("status", "--json").out)["targets"][0]["dropped"] == [told]
    assert told in place.run("report", "--markdown", "--junit", "gates.xml").out
    assert told in (place.folder / "gates.xml").read_text()
    assert (
        json.loads(place.run("report", "--json").out)["datasets"][0]["drops"][0]["why"]
        == "no value for q"
    )
    place.run("report")
    assert "rows.jsonl:61" in (place.folder / "build/report.html").read_text()


# Rows to predict


@pytest.mark.parametrize(
    ("form", "row", "why"),
    [
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "do"}, None),
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "do", "x": ["it"]}, "x is not text but a list"),
        (Form("", "prompt", "{i}{x?\n{}}"), {"i": "", "x": "it"}, "no value for i"),
        (Form("", "prompt", "{x?}"), {"x": ""}, "the prompt is empty"),
        (Form("", "prompt", "{d}"), {"d": datetime.date(2024, 5, 1)}, None),
        (Form("", "messages", "m"), {"m": [{"from": "human", "value": "Q"}]}, None),
        (Form("", "messages", "m"), {"m": json.dumps([Q])}, None),
        (
            Form("", "messages", "m"),
            {"m": [Q], "tools": "{"},
            "the tools are not a list of objects",
        ),
        (Form("", "messages", "m"), {"m": []}, "no value for m"),
    ],
)
def test_rows_to_predict_are_read_as_rows_to_train(
    form: Form, row: dict[str, Any], why: str | None
) -> None:
    if why is None:
        form.check(Read(row, Where("a.jsonl", 1)))
        return
    with pytest.raises(InputError) as caught:
        form.check(Read(row, Where("a.jsonl", 1)))
    assert (caught.value.fact, str(caught.value.where)) == (why, "a.jsonl:1")


def test_a_form_of_optional_columns_fits_rows_that_have_one(tmp_path: Path) -> None:
    assert Form("", "prompt", "{x?}").fits({"x"})
    assert not Form("", "prompt", "{x?}").fits({"y"})
    assert Form("", "prompt", "{i}{x?}").fits({"i"})
    (tmp_path / "a.jsonl").write_text('{"i": "do", "n": 1.0}\n{"i": "go", "n": 2.0, "x": "it"}\n')
    rows, form = read_rows(
        tmp_path / "a.jsonl", "a.jsonl", [Form("rows", "user", "{i} {n}{x? {}}")]
    )
    assert [fill(form.text, row.columns) for row in rows] == ["do 1", "go 2 it"]
