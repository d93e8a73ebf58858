"""Wrong early decisions, and how many rows they spare: simulated over many streams of rows.

    python benchmarks/early_decisions.py [--streams 2000]

A stream is a data set with a fixed number of right rows in random order; of a drop gate, with fixed
numbers of rows that only one of two models got right. A decision is wrong if it is other than the
gate's outcome over all rows (metrics/gates.py). For comparison the same rows are judged by Wilson's
interval after each row, which does not hold at every moment.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

from olivebuild.metrics.early_decision import LEAST, EarlyGates
from olivebuild.metrics.gates import Gate, State, share_interval, state_of
from olivebuild.metrics.row_order import row_order

LIMIT = "accuracy >= 0.8"
DROP = "accuracy drop vs old <= 0.05"


def shares(rows: int) -> list[int]:
    """Return numbers of right rows: at and beside both borders of the outcomes, and far away."""
    gate = Gate.parse(LIMIT)
    states = [
        state_of(gate, k / rows, share_interval("accuracy", k / rows, rows))
        for k in range(rows + 1)
    ]
    missed, met = states.count("missed") - 1, states.index("met")
    return [
        round(0.6 * rows),
        missed,
        missed + 1,
        round(0.8 * rows),
        met - 1,
        met,
        round(0.95 * rows),
    ]


def looks(rows: list[bool]) -> Iterator[State]:
    """Yield what Wilson's interval says after each row."""
    gate, right = Gate.parse(LIMIT), 0
    for i, answer in enumerate(rows, 1):
        right += answer
        if i >= min(LEAST, len(rows)):
            yield state_of(gate, right / i, share_interval("accuracy", right / i, i))


def decide(gate: str, pairs: list[tuple[bool, bool]]) -> tuple[State | None, int]:
    """Return a gate's early decision for (old, new) of each row, and after how many rows."""
    early = EarlyGates("bench", [Gate.parse(gate)], ["old", "new"], ["tone"])
    for row in row_order(len(pairs)):
        for model, right in zip(("old", "new"), pairs[row], strict=True):
            early.rows(model, "tone", len(pairs)).add(row, {"accuracy": right})
        if early.decide():
            break
    return early.decisions[0].state, early.decisions[0].rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=2000)
    streams = parser.parse_args().streams
    draw = random.Random(0)
    print(
        f"{'gate':<30}{'rows':>6}{'right':>12}  {'all rows':<11}{'wrong':>8}{'median':>8}"
        f"{'by Wilson':>11}"
    )
    for rows in (86, 400):
        for right in shares(rows):
            report(
                draw,
                LIMIT,
                [(True, True)] * right + [(True, False)] * (rows - right),
                streams,
                str(right),
            )
        for lost, won in ((0, 0), (rows // 50, rows // 100), (rows // 20, 0), (rows // 8, 0)):
            same = [(True, True)] * (rows - lost - won)
            report(
                draw,
                DROP,
                [(True, False)] * lost + [(False, True)] * won + same,
                streams,
                f"-{lost} +{won}",
            )


def report(
    draw: random.Random, gate: str, pairs: list[tuple[bool, bool]], streams: int, what: str
) -> None:
    """Print how many streams are decided otherwise than by all rows, and when."""
    rows = len(pairs)
    whole, decisions, by_wilson = whole_state(gate, pairs), [], 0
    for _ in range(streams):
        mixed = draw.sample(pairs, rows)
        decisions.append(decide(gate, mixed))
        if gate == LIMIT:
            order = [mixed[row][1] for row in row_order(rows)]
            first = next((s for s in looks(order) if s != "undecided"), "undecided")
            by_wilson += first != whole
    wrong = sum(state != whole for state, _ in decisions) / streams
    median = sorted(n for _, n in decisions)[streams // 2]
    naive = f"{by_wilson / streams:>10.1%}" if gate == LIMIT else ""
    print(
        f"{gate:<30}{rows:>6}{what:>12}  {whole:<11}{wrong:>8.1%}{median:>8}{naive:>11}", flush=True
    )


def whole_state(gate: str, pairs: list[tuple[bool, bool]]) -> State:
    """Return a gate's outcome over all rows."""
    parsed, rows = Gate.parse(gate), len(pairs)
    if not parsed.versus:
        share = sum(new for _, new in pairs) / rows
        return state_of(parsed, share, share_interval("accuracy", share, rows))
    from olivebuild.metrics.statistics import paired_shares

    change = paired_shares([old for old, _ in pairs], [new for _, new in pairs])
    return state_of(parsed, change.value, change.interval)


if __name__ == "__main__":
    main()
