# SPDX-License-Identifier: Apache-2.0
"""An operator at work while faults happen: drains, retires, renames and moves nodes with the commands of ``tracker-worker``.

A node gets a new name or host as doc/admin/operate.md says: the inventory, the command, SIGHUP. What became of a command that
failed, for example because the store was away, is looked up in the list of nodes, where a node keeps its id.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.invariants.collect import Log
from tests.invariants.record import ERROR, RESULT, UNKNOWN, Place, Request
from tests.support.faulty import FaultyWorker
from tests.support.worker_process import NODE, PROGRAM, Nodes

MOVES = "moves"
"""The name of the file of JSON lines with each move: ``[[host, node], [host, node]]``, from and to."""
_COMMAND_SECONDS = 120
_LONGEST_PAUSE_SECONDS = 1.5
_LONGEST_DRAIN_SECONDS = 3
_MOVED_WHILE_DRAINED = 0.5
_AWAY = ("database", "unavailable", "locked")


class Administrator:
    """Works on a thread of its own from ``start`` to ``stop``. The workers share one inventory file."""

    def __init__(
        self,
        directory: Path,
        workers: Sequence[FaultyWorker],
        *,
        seed: int,
        fixed: Mapping[str, Nodes],
        renamed: tuple[str, Sequence[str]],
        moved: tuple[str, Sequence[str]],
        drained: Sequence[Place],
        retired: Place,
    ) -> None:
        """``fixed``: the nodes that keep their places. ``renamed``: a host, and the names that a node of it gets in turns; it
        has the first at the beginning. ``moved``: the name of a node, and the hosts that it gets in turns."""
        self._workers = workers
        self._random = random.Random(f"{seed}-administrator")
        self._fixed = fixed
        self._renamed = renamed
        self._moved = moved
        self._drained = drained
        self._retired = retired
        self._log = Log(directory / "administrator.jsonl")
        self._moves = (directory / MOVES).open("a", encoding="utf-8")
        self._ids: dict[int, Place] = {}
        self._number = 0
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="administrator")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the work, with no node drained. Raises what has ended it too early."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * _COMMAND_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._random.uniform(0, _LONGEST_PAUSE_SECONDS)):
                if self._look():
                    choices: list[tuple[Callable[[], None], int]] = [
                        (self._drain, 4),
                        (self._retire, 2),
                        (self._rename, 4),
                        (self._move, 4),
                    ]
                    self._random.choices([do for do, _ in choices], [weight for _, weight in choices])[0]()
        except Exception as error:  # noqa: BLE001
            self._failure = error
        finally:
            self._log.close()
            self._moves.close()

    def _look(self) -> bool:
        """Look where the nodes are, and tell everybody of moves. Returns False: the database is away."""
        listing = self._execute("node", "list", "--format", "json")
        if listing.returncode != 0:
            return False
        places = {view["id"]: (view["host"], view["node"]) for view in json.loads(listing.stdout)}
        if not self._ids:
            first = [(self._renamed[0], self._renamed[1][0]), (self._moved[1][0], self._moved[0])]
            self._ids = {number: place for number, place in places.items() if place in first}
            assert len(self._ids) == len(first), places
        for number, before in self._ids.items():
            if (now := places[number]) != before:
                self._moves.write(json.dumps([before, now]) + "\n")
                self._moves.flush()
                self._ids[number] = now
        self._write_inventory(list(self._ids.values()))
        self._reload()
        return True

    def _drain(self) -> None:
        """Drain a node for a while. The drain stays with the node, also if it gets another name or host meanwhile."""
        self._number += 1
        reason = f"drain {self._number}"
        number = self._random.choice([None, None, *self._ids])
        host, node = self._random.choice(self._drained) if number is None else self._ids[number]
        if self._command("node drain", host, node, "--reason", reason, args={"reason": reason}) == ERROR:
            return
        self._stopping.wait(self._random.uniform(0, _LONGEST_DRAIN_SECONDS))
        if number is not None:
            if self._random.random() < _MOVED_WHILE_DRAINED:
                (self._move if node == self._moved[0] else self._rename)()
            host, node = self._ids[number]
        self._undrain(host, node, reason)

    def _retire(self) -> None:
        """Retire a node, if it is empty, and take it back."""
        host, node = self._retired
        if self._command("node retire", host, node) != ERROR:
            self._stopping.wait(self._random.uniform(0, _LONGEST_DRAIN_SECONDS))
            self._undrain(host, node, "")

    def _undrain(self, host: str, node: str, reason: str) -> None:
        deadline = time.monotonic() + _COMMAND_SECONDS
        while self._command("node undrain", host, node, args={"reason": reason}) == UNKNOWN:
            assert time.monotonic() < deadline, f"{host}/{node} is not taken back"

    def _rename(self) -> None:
        number, (host, name) = next(iter(self._with_name(self._renamed[1])))
        new = self._random.choice([other for other in self._renamed[1] if other != name])
        self._write_inventory([place if other != number else (host, new) for other, place in self._ids.items()])
        self._command("node rename", host, name, new)
        self._look_until_found()

    def _move(self) -> None:
        number, (host, name) = next(iter(self._with_name([self._moved[0]])))
        new = self._random.choice([other for other in self._moved[1] if other != host])
        self._write_inventory([place if other != number else (new, name) for other, place in self._ids.items()])
        self._command("node move", host, name, "--to", new)
        self._look_until_found()

    def _look_until_found(self) -> None:
        deadline = time.monotonic() + _COMMAND_SECONDS
        while not self._look():
            assert time.monotonic() < deadline, "the nodes cannot be listed"

    def _with_name(self, names: Sequence[str]) -> list[tuple[int, Place]]:
        return [(number, place) for number, place in self._ids.items() if place[1] in names]

    def _command(self, command: str, host: str, *arguments: str, args: Mapping[str, Any] | None = None) -> str:
        """Execute a command about a node and record it. Returns the outcome; UNKNOWN: the database was away."""
        self._number += 1
        sent_at = time.monotonic()
        done = self._execute(*command.split(), *arguments, "--host", host)
        away = any(word in done.stderr.lower() for word in _AWAY)
        outcome = RESULT if done.returncode == 0 else UNKNOWN if away else ERROR
        self._log.add(
            Request(
                unique_id=f"administrator-{self._number}",
                host=None,
                method=command,
                args={"host": host, "arguments": arguments, **(args or {})},
                call=True,
                sent_at=sent_at,
                ended_at=time.monotonic(),
                outcome=outcome,
                reply=done.stdout,
                error=done.stderr[-1000:],
                client="administrator",
            )
        )
        return outcome

    def _execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        worker = self._workers[0]
        return subprocess.run(
            [PROGRAM, f"--config-file={worker.configuration}", *arguments],
            cwd=worker.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    def _inventory(self, places: Sequence[Place]) -> dict[str, Nodes]:
        hosts = {host: dict(nodes) for host, nodes in self._fixed.items()}
        for host, node in places:
            hosts[host][node] = NODE
        return dict(hosts)

    def _write_inventory(self, places: Sequence[Place]) -> None:
        self._workers[0].write_inventory(self._inventory(places))

    def _reload(self) -> None:
        """Let the workers that are ready read the inventory; another one reads it when it starts."""
        for worker in self._workers:
            worker.signal_ready(signal.SIGHUP)
