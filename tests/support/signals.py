# SPDX-License-Identifier: Apache-2.0
"""What an operator can look at while something is wrong: /readyz, the page's document, Prometheus, the log and ``check``.
Each is asked again and again, by a thread of its own, until all of them say what is true."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.health import fetch
from tests.support.prometheus import Prometheus

NO_ANSWER = "no answer"
SIGNALS = ("readyz", "metrics", "page", "log", "check")
_PAUSES = {"readyz": 0.2, "metrics": 0.3, "page": 0.3, "log": 0.2, "check": 0.2}
_MOST_SHOWN = 110
_WITHOUT_INSTANCE = re.compile(r'\{instance="[^"]*"\}')
_LOGGED = re.compile(r"^\S+ \S+ \d+ ([A-Z]+) \S+ \[[^\]]*\] ")

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a signal says, in short, and whether it is what is expected."""

    said: str
    right: bool


Ask = Callable[[], Answer]


@dataclass(frozen=True, slots=True)
class Agreement:
    """``said``: signal -> what it said in the end. ``seconds``: signal -> since when, after the fault, it has said so without a
    break; those that never did are not in it."""

    said: Mapping[str, str]
    seconds: Mapping[str, float]

    @property
    def wrong(self) -> list[str]:
        return [signal for signal in SIGNALS if signal not in self.seconds]


class Watch:
    """Asks every signal until all of them are right at the same time."""

    def __init__(self, asks: Mapping[str, Ask]) -> None:
        self._asks = asks
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._failure: BaseException | None = None
        self._over = threading.Event()

    def agreement(self, began: float, *, at_most: float) -> Agreement:
        """``began``: when the fault was caused, on the monotonic clock."""
        threads = [threading.Thread(target=self._ask, args=(signal,), name=f"watch-{signal}") for signal in SIGNALS]
        for thread in threads:
            thread.start()
        while not self._is_over() and time.monotonic() < began + at_most:
            time.sleep(0.05)
        self._over.set()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return Agreement(dict(self._said), {signal: since - began for signal, since in self._since.items()})

    def _is_over(self) -> bool:
        with self._lock:
            return self._failure is not None or self._since.keys() == set(SIGNALS)

    def _ask(self, signal: str) -> None:
        try:
            while not self._is_over() and not self._over.is_set():
                answer = self._asks[signal]()
                with self._lock:
                    if self._since.keys() == set(SIGNALS):
                        return  # all were right at the same time; what this one has said since is not looked at
                    self._said[signal] = answer.said
                    if answer.right:
                        self._since.setdefault(signal, time.monotonic())
                    else:
                        self._since.pop(signal, None)
                self._over.wait(_PAUSES[signal])
        except BaseException as failure:  # noqa: BLE001 raised again on the main thread
            self._failure = failure


# --- the signals -----------------------------------------------------------------------------------------------------


def readyz(port: int, expected: str) -> Ask:
    """``expected``: the status and the codes, such as "503 deaf", or NO_ANSWER."""

    def ask() -> Answer:
        try:
            answer = fetch(port, "/readyz", seconds=2)
        except OSError:
            return Answer(NO_ANSWER, expected == NO_ANSWER)
        said = " ".join([str(answer.status), *answer.codes])
        return Answer(said, said == expected)

    return ask


def page(port: int, expected: Callable[[Document], str] | None) -> Ask:
    """``expected`` returns what the document behind the page says of the fault, or ""; None: it must not be there."""

    def ask() -> Answer:
        try:
            document = fetch(port, "/status", seconds=2).document
        except OSError:
            return Answer(NO_ANSWER, expected is None)
        found = "" if expected is None else expected(document)
        return Answer(found or "problems: " + (", ".join(codes(document)) or "none"), bool(found))

    return ask


def metrics(server: Prometheus, expression: str) -> Ask:
    """The expression, a comparison, has a series at this moment."""

    def ask() -> Answer:
        found = bool(server.values(expression))
        return Answer(_WITHOUT_INSTANCE.sub("", expression) if found else "nothing", found)

    return ask


def log(path: Path, offset: int, pattern: str | None) -> Ask:
    """A line behind ``offset`` (in bytes) has the pattern; None: nothing was written for two seconds."""
    began, size = time.monotonic(), path.stat().st_size

    def ask() -> Answer:
        nonlocal began, size
        if pattern is None:
            if path.stat().st_size != size:
                began, size = time.monotonic(), path.stat().st_size
            return Answer("nothing", time.monotonic() - began > 2)
        lines = path.read_bytes()[offset:].decode().splitlines()
        found = next((line for line in lines if re.search(pattern, line)), "")
        return Answer(_shortened(_LOGGED.sub(r"\1: ", found)), bool(found))

    return ask


def check(command: Sequence[str], level: str, name: str, words: str) -> Ask:
    """A finding of the command ``check`` has this level, this name and these words."""

    def ask() -> Answer:
        findings = findings_of(command)
        found = [one for one in findings if one["name"] == name and one["level"] == level and words in one["message"]]
        shown = found or [one for one in findings if one["level"] != "ok"]
        return Answer(
            _shortened("; ".join(f"{one['level']} {one['name']}: {one['message']}" for one in shown)), bool(found)
        )

    return ask


def findings_of(command: Sequence[str]) -> list[dict[str, Any]]:
    """What ``check`` finds, whatever its exit code is."""
    done = subprocess.run(
        [*command, "--format", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def codes(document: Document) -> list[str]:
    """The codes of the problems in the document behind the page."""
    return [problem["code"] for problem in document["problems"]]


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


# --- the table -------------------------------------------------------------------------------------------------------


def row(fault: str, agreement: Agreement, *, at_most: float) -> str:
    """A row of the table, in Markdown."""
    cells = [fault, *(f"{agreement.said.get(signal, '')}" for signal in SIGNALS)]
    if agreement.wrong:
        cells.append(f"not within {at_most:g}: {', '.join(agreement.wrong)}")
    else:
        slowest = max(agreement.seconds, key=lambda signal: agreement.seconds[signal])
        cells.append(f"{agreement.seconds[slowest]:.1f} ({slowest})")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


HEAD = (
    "| fault | /readyz | metrics, in Prometheus | document of the page | log | check | seconds until all said it |\n"
    "|---|---|---|---|---|---|---|"
)
