"""Choosing a member: every rule stays within its members, and nobody is favoured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.upstreams.balance import RULES, choose


@dataclass
class Member:
    name: int
    inflight: int = 0


loads = st.lists(st.integers(0, 3), min_size=1, max_size=8)
turns = st.integers(0, 10_000)


def members_of(load: list[int]) -> list[Member]:
    return [Member(name, inflight) for name, inflight in enumerate(load)]


@pytest.mark.parametrize("rule", RULES)
@given(load=loads, turn=turns)
def test_every_rule_chooses_one_of_them(rule: str, load: list[int], turn: int) -> None:
    members = members_of(load)
    assert choose(members, rule, turn) in members


@given(loads, turns)
def test_least_inflight_chooses_the_least(load: list[int], turn: int) -> None:
    assert choose(members_of(load), "least_inflight", turn).inflight == min(load)


@given(loads, turns)
def test_equals_share_exactly(load: list[int], first: int) -> None:
    """Over as many turns as would give each of the equals ten, each gets ten, wherever they are."""
    members = members_of(load)
    equals = [member.name for member in members if member.inflight == min(load)]
    turns = range(first, first + 10 * len(equals))
    chosen = Counter(choose(members, "least_inflight", turn).name for turn in turns)
    assert chosen == dict.fromkeys(equals, 10)


@given(st.integers(1, 8), turns)
def test_round_robin_cycles(size: int, first: int) -> None:
    members = members_of([5] * (size - 1) + [0])
    names = [choose(members, "round_robin", first + step).name for step in range(3 * size)]
    cycle = [(first + step) % size for step in range(size)]
    assert names == cycle * 3


@given(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=200))
def test_least_inflight_keeps_the_load_level(size: int, ended: list[int]) -> None:
    """When every request lasts, no member is ever two ahead of another."""
    members = members_of([0] * size)
    for turn in range(len(ended)):
        choose(members, "least_inflight", turn).inflight += 1
        load = [member.inflight for member in members]
        assert max(load) - min(load) <= 1
