"""Work in the order of a graph, whatever is added while it is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from olivebuild.planner.changing.worklist import Worklist

NAMES = [f"n{i}" for i in range(8)]
POSITION = {name: number for number, name in enumerate(NAMES)}
USERS = st.fixed_dictionaries({name: st.sets(st.sampled_from(NAMES)) for name in NAMES})


@given(st.sets(st.sampled_from(NAMES)), USERS, st.booleans())
def test_each_name_is_visited_once_and_in_order(
    names: set[str], users: dict[str, set[str]], upwards: bool
) -> None:
    sign = -1 if upwards else 1
    worklist = Worklist(POSITION, names, upwards=upwards)
    visited, wanted = [], set(names)
    for name in worklist:
        visited.append(name)
        later = {user for user in users[name] if sign * (POSITION[user] - POSITION[name]) > 0}
        # What was visited already may be named again, and is not visited again.
        worklist.add(later | {visited[0]})
        wanted |= later
    assert visited == sorted(wanted, key=lambda name: sign * POSITION[name])
