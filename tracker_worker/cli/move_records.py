# SPDX-License-Identifier: Apache-2.0
"""The moves of a database, as ``tracker-worker move`` shows them, and what a file says of a move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from tracker_worker.cli.context import CommandFailed, Settings
from tracker_worker.cli.ledgers import opened_store
from tracker_worker.domain.move import furthest
from tracker_worker.domain.views import move_view
from tracker_worker.ids import canonical

_MOST = 100_000
_MOST_FILE_BYTES = 1024 * 1024
_TIMES = {"finish_move": "finished_at", "revert_move": "ended_at"}


def recorded(settings: Settings, move_id: str) -> dict[str, Any] | None:
    """A move as the host knows it on which it has got furthest; None: no host knows it."""
    with opened_store(settings.load(messaging=False)) as store:
        moves = [move for _, move in store.moves(move_id=canonical(move_id), limit=_MOST)]
    return next(map(move_view, furthest(moves)), None)


def unfinished(settings: Settings) -> list[dict[str, Any]]:
    """The moves for which something is charged beside the instance, by id: what is incoming or on hold, or what is still the
    instance at a source of this database that was not told of the hand-over."""
    with opened_store(settings.load(messaging=False)) as store:
        moves = [move for _, move in store.moves(limit=_MOST)]
        untold = [move for move in store.untold_moves(limit=_MOST) if move.handed_over]
    ids = {move.id for move in moves if move.open} | {move.id for move in untold}
    return [move_view(move) for move in furthest(move for move in moves if move.id in ids)]


def read(told: IO[str]) -> Mapping[str, Any]:
    """The move of a file. Raises CommandFailed: it has none."""
    try:
        given = json.loads(told.read(_MOST_FILE_BYTES))
    except (ValueError, OSError) as error:
        raise CommandFailed(f"{told.name} is no JSON: {error}") from error
    if not isinstance(given, Mapping):
        raise CommandFailed(f"{told.name} has no move: it must be what 'move show ID --format json' prints")
    return given


def effective(method: str, move: Mapping[str, Any] | None, host: str) -> str | None:
    """When the step happened, for the source ``host`` of a move of which so much is known; None: the host decides."""
    if move is None or method not in _TIMES or host == move.get("to_host"):
        return None
    return move.get(_TIMES[method]) or None
