# SPDX-License-Identifier: Apache-2.0
"""The order in which the broker's addresses are tried, and the waits between rounds, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.channels import SETTINGS
from tracker_worker.bus.amqp.addresses import Addresses, Visitor, shared_addresses

URLS = ["amqp://u:p@a:1/", "amqp://u:p@b:1/", "amqp://u:p@c:1/"]
A, B, C = range(3)
SILENCE = 2.0  # the time-out of a connection whose packets are swallowed


def delays() -> Iterator[float]:
    return itertools.chain([3.0, 5.0], itertools.repeat(7.0))


def no_shuffle(order: list[int]) -> None:
    """Keep the order."""


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(URLS, shuffle=no_shuffle, delays=delays)


class Walk:
    """One connection that asks a visitor, and a clock."""

    def __init__(self, addresses: Addresses) -> None:
        self.visitor: Visitor = addresses.visitor()
        self.now = 100.0

    def take(self) -> int:
        """Wait as long as the visitor says, then take an address."""
        self.now += self.visitor.due_in(self.now)
        return self.visitor.take(self.now)

    def fail(self, number: int, seconds: float = 0.0, *, login_refused: bool = False) -> int:
        self.now += seconds
        return self.visitor.failed(number, self.now, seconds=seconds, login_refused=login_refused)

    def live(self, number: int, seconds: float) -> None:
        self.visitor.opened(number)
        self.now += seconds
        self.visitor.ended(number, self.now, seconds=seconds)

    def failed_round(self, **how: bool) -> list[int]:
        taken = []
        for _ in URLS:
            taken.append(self.take())
            self.fail(taken[-1], **how)
        return taken


@pytest.fixture
def walk(addresses: Addresses) -> Walk:
    return Walk(addresses)


def test_addresses_that_refuse_cost_no_time_until_the_round_is_over(walk: Walk) -> None:
    assert walk.failed_round() == [A, B, C]
    assert walk.now == 100.0
    assert walk.failed_round() == [A, B, C]
    assert walk.now == 101.0
    assert walk.take() == A
    assert walk.now == 102.0


def test_an_address_that_swallows_packets_costs_its_time_once_and_then_is_the_last(walk: Walk) -> None:
    assert walk.take() == A
    walk.fail(A, SILENCE)
    assert [walk.take(), walk.take()] == [B, C]
    walk.fail(B)
    walk.fail(C)
    assert walk.now == 100.0 + SILENCE
    assert walk.failed_round() == [B, C, A]


def test_a_round_that_took_longer_than_a_second_is_followed_by_the_next_one_immediately(walk: Walk) -> None:
    for _ in URLS:
        walk.fail(walk.take(), SILENCE)
    assert walk.visitor.due_in(walk.now) == 0.0


def test_the_wait_after_a_refused_login_grows_and_begins_again_after_a_connection(walk: Walk) -> None:
    for wait in (3.0, 5.0, 7.0, 7.0):
        walk.failed_round(login_refused=True)
        assert walk.visitor.due_in(walk.now) == wait
    walk.live(walk.take(), 60)
    walk.failed_round(login_refused=True)
    assert walk.visitor.due_in(walk.now) == 3.0


def test_after_a_round_without_a_refused_login_the_wait_is_short_again(walk: Walk) -> None:
    walk.failed_round(login_refused=True)
    walk.failed_round()
    assert walk.visitor.due_in(walk.now) == 1.0


def test_a_lost_connection_is_opened_again_immediately_at_the_same_address(walk: Walk) -> None:
    walk.fail(walk.take())
    walk.live(walk.take(), 60)
    assert walk.visitor.due_in(walk.now) == 0.0
    assert [walk.take(), walk.take(), walk.take()] == [B, A, C]


def test_a_connection_that_ends_as_soon_as_it_is_open_is_not_opened_without_a_pause(walk: Walk) -> None:
    opened = 0
    while walk.now < 110.0:
        walk.live(walk.take(), 0.01)
        opened += 1
    assert opened <= 11 * len(URLS)


def test_after_a_short_life_the_other_addresses_come_first(walk: Walk) -> None:
    walk.live(walk.take(), 0.5)
    assert [walk.take(), walk.take()] == [B, C]


def test_a_connection_begins_at_the_address_at_which_another_one_is(addresses: Addresses, walk: Walk) -> None:
    walk.fail(walk.take())
    walk.visitor.opened(walk.take())
    assert Walk(addresses).take() == B


def test_a_connection_in_the_middle_of_a_round_follows_another_one(addresses: Addresses, walk: Walk) -> None:
    other = Walk(addresses)
    walk.fail(walk.take())
    other.visitor.opened(C)
    assert [walk.take(), walk.take()] == [C, B]


def test_a_good_address_that_fails_is_good_no_more(addresses: Addresses, walk: Walk) -> None:
    walk.live(C, 60)
    walk.fail(walk.take(), SILENCE)
    assert Walk(addresses).take() == A
    assert addresses.round() == [A, B, C]


def test_a_restart_ends_the_wait_after_a_refused_login(walk: Walk) -> None:
    walk.failed_round(login_refused=True)
    walk.visitor.restart(walk.now)
    assert walk.visitor.due_in(walk.now) == 0.0
    assert walk.take() == A


def test_failures_in_a_row_are_counted_for_each_address(walk: Walk) -> None:
    assert [walk.fail(A), walk.fail(A), walk.fail(B)] == [1, 2, 1]
    walk.visitor.opened(A)
    assert walk.fail(A) == 1


def test_a_name_that_does_not_resolve_is_news_once_until_it_resolves(addresses: Addresses) -> None:
    assert addresses.is_news(A)
    assert not addresses.is_news(A)
    assert addresses.is_news(B)
    addresses.succeeded(A)
    assert addresses.is_news(A)


def test_other_urls_take_the_places_of_the_old_ones(addresses: Addresses) -> None:
    addresses.replace([url.replace("u:p", "u:q") for url in URLS])
    assert addresses.url(B) == "amqp://u:q@b:1/"


def test_the_order_is_shuffled_once_for_a_process() -> None:
    settings = replace(SETTINGS, urls=tuple(f"amqp://u:p@host-{number}:1/" for number in range(50)))
    order = shared_addresses(settings).round()
    assert order != list(range(50))
    assert sorted(order) == list(range(50))
    assert shared_addresses(settings).round() == order
