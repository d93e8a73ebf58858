"""Data sets in object stores, through real builds: Azurite and moto on loopback."""

from __future__ import annotations

import json

from tests.conftest import Place
from tests.ml.remotes.conftest import Cloud

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(20))


def _recipe(place: Place, source: str) -> None:
    place.recipe.write_text(
        "targets:\n"
        f'  rows: {{kind: dataset, source: "{source}", text: "{{a}}", near_duplicates: false}}\n'
    )


def _sources(place: Place) -> dict[str, str]:
    sources: dict[str, str] = json.loads((place.folder / "olivebuild.lock").read_text())["sources"]
    return sources


def test_a_file_is_pinned_fetched_once_and_asked_for_by_an_update_alone(
    place: Place, cloud: Cloud
) -> None:
    place.environment |= cloud.environment
    cloud.put("data/rows.jsonl", ROWS)
    source = cloud.source + "data/rows.jsonl"
    _recipe(place, source)
    done = place.build()
    assert done.code == 0, done.err
    assert done.ran == ["rows"]
    assert f"size {len(ROWS)}, etag " in _sources(place)[source]
    cloud.gateway.asked.clear()
    # Nobody is asked: nothing has changed, then another template reads what was fetched.
    assert place.build().ran == []
    place.edit('text: "{a}"', 'text: "- {a}"')
    assert place.build().ran == ["rows"]
    assert cloud.gateway.asked == []
    assert "unchanged" in place.run("update", "rows").out
    assert len(cloud.gateway.asked) == 1
    assert cloud.gateway.asked[0].startswith("HEAD ")
