"""Data files as people have them: five shapes of a few hundred rows, written by hand here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

THINGS = ["Drucker", "Monitor", "Laptop", "Telefon", "Router", "Schlüssel", "Konto", "Beamer"]
PLACES = ["im Büro", "zu Hause", "im Lager", "in Köln", "am Empfang", "auf Reisen"]
KINDS = {
    "Störung": ["geht nicht mehr an", 'zeigt nur "Fehler 7", sonst nichts', "stürzt ab"],
    "Bestellung": ["soll neu bestellt werden", "wird zweimal gebraucht", "bitte liefern"],
    "Rückgabe": ["ist zurückzugeben", "wurde falsch geliefert", "wird nicht mehr gebraucht"],
}
PRIORITIES = ["hoch", "mittel", "niedrig"]


def tickets() -> Iterator[dict[str, str]]:
    """Tickets with commas, quotes, line breaks and umlauts, an id, a date and a note of few."""
    number = 0
    for place in PLACES:
        for thing in THINGS:
            for i, (kind, texts) in enumerate(KINDS.items()):
                number += 1
                day = f"{1 + number % 28:02d}.{1 + number % 12:02d}.2026"
                text = texts[(number + i) % len(texts)]
                yield {
                    "Nr": f"INC-{number:05d}",
                    "Datum": f"{day} 08:{number % 60:02d}",
                    "Beschreibung": f"Guten Tag,\n{thing} {place}: {text}; Gerät {number * 37}.",
                    "Kategorie": kind,
                    "Notiz": "erledigt, siehe oben" if number % 9 == 0 else "",
                }


def tickets_csv(folder: Path) -> str:
    """Commas, as a ticket system exports them."""
    return _csv(folder / "tickets.csv", list(tickets()), ",", "utf-8-sig")


def latin_csv(folder: Path) -> str:
    """Semicolons and Latin-1, as a spreadsheet in Europe saves them; two columns of categories."""
    rows = [row | {"Priorität": PRIORITIES[n * 5 % 7 % 3]} for n, row in enumerate(tickets())]
    return _csv(folder / "export.csv", rows, ";", "latin-1")


def _csv(file: Path, rows: list[dict[str, str]], delimiter: str, encoding: str) -> str:
    with file.open("w", encoding=encoding, newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(rows)
    return file.name


def chat_jsonl(folder: Path) -> str:
    """Conversations in the form of requests, some with a system prompt and several turns."""
    rows = []
    for n, row in enumerate(tickets()):
        turns = [{"role": "system", "content": "Be brief."}] if n % 2 else []
        turns.append({"role": "user", "content": row["Beschreibung"]})
        turns.append({"role": "assistant", "content": f"Danke, {row['Kategorie']} notiert."})
        if n % 3 == 0:
            turns.append({"role": "user", "content": f"Wann? {n}"})
            turns.append({"role": "assistant", "content": f"Morgen um {n % 24} Uhr."})
        rows.append({"id": n, "messages": turns})
    return _jsonl(folder / "chat.jsonl", rows)


def alpaca_json(folder: Path) -> str:
    """Alpaca's columns, in an object under the key `data`."""
    rows = [
        {
            "instruction": f"Sort the request {n} by its kind.",
            "input": row["Beschreibung"] if n % 4 else "",
            "output": f"{row['Kategorie']}, since {row['Beschreibung'].split(': ')[1]}",
        }
        for n, row in enumerate(tickets())
    ]
    (folder / "alpaca.json").write_text(json.dumps({"version": 1, "data": rows}))
    return "alpaca.json"


def parquet_folder(folder: Path) -> str:
    """A folder as the hub has it: splits, numbers of labels beside their texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "reviews/data").mkdir(parents=True)
    rows = [
        {
            "idx": n,
            "text": row["Beschreibung"],
            "label": list(KINDS).index(row["Kategorie"]),
            "label_text": row["Kategorie"],
        }
        for n, row in enumerate(tickets())
    ]
    parts = {
        "train": rows[::2] + rows[1::4],
        "validation": rows[3::8],
        "test": rows[7::8] + rows[5::8],
    }
    for name, part in parts.items():
        pq.write_table(
            pa.Table.from_pylist(part), folder / f"reviews/data/{name}-00000-of-00001.parquet"
        )
    return "reviews"


def preferences_jsonl(folder: Path) -> str:
    """Questions with a chosen and a rejected answer."""
    rows = [
        {"prompt": row["Beschreibung"], "chosen": f"Gern: {row['Kategorie']}.", "rejected": "Nein."}
        for row in tickets()
    ]
    return _jsonl(folder / "preferences.jsonl", rows)


def sharegpt_json(folder: Path) -> str:
    """Conversations as ShareGPT has them, with a system prompt beside them."""
    rows = [
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": row["Beschreibung"]},
                {"from": "gpt", "value": row["Kategorie"]},
            ],
        }
        for row in tickets()
    ]
    (folder / "sharegpt.json").write_text(json.dumps(rows))
    return "sharegpt.json"


def prose_tsv(folder: Path) -> str:
    """Texts alone."""
    rows = [{"n": str(n), "letter": row["Beschreibung"]} for n, row in enumerate(tickets())]
    return _csv(folder / "letters.tsv", rows, "\t", "utf-8")


def _jsonl(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file.name


SHAPES: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "tickets": (tickets_csv, []),
    "chat": (chat_jsonl, []),
    "alpaca": (alpaca_json, []),
    "parquet": (parquet_folder, []),
    "latin": (latin_csv, ["--answer", "Kategorie"]),
}
"""The five that are built; each with the options that decide what its columns leave open."""
OTHERS: dict[str, Callable[[Path], str]] = {
    "preferences": preferences_jsonl,
    "sharegpt": sharegpt_json,
    "prose": prose_tsv,
}
