"""What the report draws: places of boxes, lines, names and ticks."""

from __future__ import annotations

import pytest

from olivebuild.ui.report.render import charts, graph_layout, pareto_chart


@pytest.mark.parametrize(
    "names", [["a"], ["int4-16-none", "int4-32-none", "int4-16-mixed", "int4-32-mixed"]]
)
@pytest.mark.parametrize("apart", [0.0, 1.0, 40.0])
def test_names_stand_inside_and_beside_their_spots(names: list[str], apart: float) -> None:
    places = [(5 + i * 90 / max(1, len(names) - 1), 50 - i * apart / 4) for i in range(len(names))]
    boxes = []
    for name, label in zip(names, pareto_chart._labels(names, places), strict=True):
        wide = len(name) * pareto_chart.LABEL[0]
        left = 100 - label.at - wide if label.from_right else label.at
        boxes.append((left, label.y))
        assert -0.5 <= left <= 100.5 - wide
        assert not any(abs(y - label.y) < 4 and left < x < left + wide for x, y in places)
    assert len(set(boxes)) == len(names)


def overlaps(a: graph_layout.Box, b: graph_layout.Box) -> bool:
    return abs(a.x - b.x) < graph_layout.WIDTH and abs(a.y - b.y) < graph_layout.HEIGHT


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"a": []},
        {"a": [], "b": ["a"], "c": ["b", "a"]},
        {f"n{i}": [f"n{j}" for j in range(i) if (i * 7 + j * 3) % 5 == 0] for i in range(20)},
    ],
)
def test_boxes_do_not_overlap_and_lines_go_to_the_right(inputs: dict[str, list[str]]) -> None:
    drawing = graph_layout.draw(inputs)
    boxes = {b.name: b for b in drawing.boxes}
    assert list(boxes) == list(inputs)
    for a in drawing.boxes:
        assert 0 <= a.x <= drawing.width - graph_layout.WIDTH + 1e-6
        assert -1e-6 <= a.y <= drawing.height - graph_layout.HEIGHT + 1e-6
        assert not any(overlaps(a, b) for b in drawing.boxes if b is not a)
    for wire in drawing.wires:
        x, y = map(float, wire.path[1:].partition("C")[0].split())
        assert (x, y) == pytest.approx(
            (
                boxes[wire.source].x + graph_layout.WIDTH,
                boxes[wire.source].y + graph_layout.HEIGHT / 2,
            ),
            abs=0.1,
        )
        assert boxes[wire.target].x > boxes[wire.source].x


def test_lines_that_follow_from_others_are_left_out() -> None:
    assert [
        (w.source, w.target)
        for w in graph_layout.draw({"a": [], "b": ["a"], "c": ["a", "b"]}).wires
    ] == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.217, 1.0, [0.4, 0.6, 0.8, 1.0]),
        (3, 3, [3]),
        (1e-6, 5e-6, [1e-6, 2e-6, 3e-6, 4e-6, 5e-6]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert charts.nice(low, high, 5) == pytest.approx(ticks)


@pytest.mark.parametrize(("q", "value"), [(0, 1), (0.5, 2.5), (1, 4), (0.25, 1.75)])
def test_quantiles(q: float, value: float) -> None:
    assert charts.quantile([1, 2, 3, 4], q) == value
