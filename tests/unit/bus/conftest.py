# SPDX-License-Identifier: Apache-2.0
"""Consumers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.consumer import Case


@pytest.fixture
def make_consumer() -> Iterator[Callable[..., Case]]:
    made: list[Case] = []

    def make_case(**arguments: object) -> Case:
        made.append(Case(**arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make_case
    for case in made:
        case.consumer.stop(0)
