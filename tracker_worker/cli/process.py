# SPDX-License-Identifier: Apache-2.0
"""The process of ``serve``: its signals, its exit code, and the order of start and stop.

The main thread waits for events and does nothing that could hang: it has to hear the signals. Start, reload and stop happen on
threads of their own. The process ends by ``os._exit``: the interpreter's own end would wait for a driver or a log that hangs.
"""

from __future__ import annotations

import tracker_worker.cli.threading_backend  # noqa: F401 must precede oslo.messaging

# isort: split
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import click
from oslo_config import cfg

from tracker_worker.cli.check.options import find_unknown
from tracker_worker.cli.context import PROJECT, CommandFailed, Settings, start_logging
from tracker_worker.cli.events import Events
from tracker_worker.cli.log_queue import LogQueue
from tracker_worker.cli.report import Reporter, log_lines
from tracker_worker.cli.systemd import is_notified, notify_systemd, reloading, status, watchdog_pings
from tracker_worker.cli.version import version_line
from tracker_worker.conf.masked import masked_options
from tracker_worker.errors import ConfigurationError, TrackerError
from tracker_worker.service.health.readiness import in_short
from tracker_worker.service.report import Section, thread_lines
from tracker_worker.service.worker import Worker
from tracker_worker.threads import NamedThread

LOG = logging.getLogger(__name__)

_READY_CHECK_SECONDS = 0.1
# What systemd shows of the worker is that old at most.
_STATUS_SECONDS = 1.0
# Within this number of checks the worker learns for which hosts the broker has made it the active one.
_STANDING_CHECKS = 10
# New objects between two runs of the garbage collector: they come from some thousand requests; Python's default corresponds
# to ten requests.
_GARBAGE_THRESHOLD = 50_000
# Until the configuration is read.
_STOP_SECONDS = 10
# The last lines of the log, or the reason why a start has failed, are written within this time or lost.
_LAST_WORDS_SECONDS = 1.0
_STARTED = "started"
_RELOADED = "reloaded"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The start has failed, and what was started by then has stopped."""

    error: BaseException


Event = int | str | BaseException | StartFailed


class WorkerProcess:
    """``run`` belongs to the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._events: Events[Event] = Events()
        self._signalled = False
        self._log = LogQueue()
        self._logging = False
        self._stop_seconds = float(_STOP_SECONDS)
        self._worker: Worker | None = None
        self._conf: cfg.ConfigOpts | None = None
        self._reporter = Reporter(self._sections)
        self._ready = False  # for reports
        self._reload_wanted = False
        self._reloading = False
        self._checks = 0
        self._ready = False
        self._status = ""

    def run(self) -> NoReturn:
        """Start the worker, serve, stop, and end the process. Raises what ends a start before there is a log, most often
        ConfigurationError."""
        # Set here and not inherited: a shell that starts a program in the background has it ignore SIGINT.
        self._reporter.start()
        self._events.on_signals((*_STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR2), self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # see ``serve``
        NamedThread(target=self._start, name="tracker-start").start()
        end = self._serve()
        if isinstance(end, StartFailed):
            self._refuse(end.error)
        if isinstance(end, BaseException):
            LOG.critical("a part of the worker failed: %s", end)
            self._stop(1, f"a part of the worker failed: {end}")
        LOG.info("stopping on signal %s", end)
        self._stop(0)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR2:
            self._reporter.request()
            return
        if number in _STOP_SIGNALS:
            if self._signalled:
                os._exit(1)  # the second signal: memory holds nothing that would be lost
            self._signalled = True
        self._events.put(number)

    def _serve(self) -> int | BaseException | StartFailed:
        """Start, announce and reload. Returns what ends it: a signal, the start's failure, or the error of a part."""
        started = False
        idle_seconds = _STATUS_SECONDS if is_notified() else None
        while True:
            checking = started and not self._ready
            event = self._events.get(_READY_CHECK_SECONDS if checking else idle_seconds)
            if event is None:
                if checking:
                    self._announce()
                self._say_status()
                continue
            if event == _STARTED:
                started = True
            elif event == signal.SIGHUP:
                self._reload_wanted = True
            elif event == _RELOADED:
                self._reloading = False
                if self._ready:
                    notify_systemd("READY=1")
            else:
                assert not isinstance(event, str)
                return event
            if started and self._reload_wanted and not self._reloading:
                self._reload_wanted, self._reloading = False, True
                if self._ready:  # READY=1 behind it would tell systemd that the start is over
                    notify_systemd(*reloading())
                NamedThread(target=self._reload, name="tracker-reload").start()

    def _say_status(self) -> None:
        """Have systemd show the hosts, or what is in the way, if that has changed."""
        if not is_notified() or self._worker is None:
            return
        said = in_short(self._worker.readiness())
        if said != self._status:
            self._status = said
            notify_systemd(status(said))

    def _announce(self) -> None:
        """Say that the worker is ready, if it is."""
        assert self._worker is not None
        if not self._worker.ready():
            return
        self._checks += 1
        self._worker.probe()
        if not self._worker.settled() and self._checks < _STANDING_CHECKS:
            return
        LOG.info("ready: %s", self._worker.standing())
        self._log.flush(_LAST_WORDS_SECONDS)  # the log says it first
        notify_systemd("READY=1")
        self._ready = True
        _freeze_memory()

    # --- on threads of their own -------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            self._conf = conf = self._settings.load()
            self._stop_seconds = float(conf.tracker.stop_seconds)
            start_logging(conf, self._settings.warnings)
            self._log.adopt()
            self._log.start()
            self._logging = True
            log_fields = bool(conf.use_json or conf.log_config_append)
            worker = Worker(
                conf,
                died=self._events.put,
                stalled=self._stalled,
                turned=watchdog_pings(),
                log_fields=log_fields,
                log_records_dropped=lambda: self._log.dropped_in_all,
            )
            self._worker = worker
            for unknown in find_unknown(conf):
                LOG.warning("%s", unknown)
            worker.start()
        except BaseException as error:  # noqa: BLE001 the main thread reports it
            self._events.put(StartFailed(error))
        else:
            self._events.put(_STARTED)

    def _reload(self) -> None:
        assert self._worker is not None
        try:
            self._worker.reload()
            self._log.adopt()  # oslo.log may have read [DEFAULT] log_config_append again
        except BaseException as error:
            LOG.exception("the reload failed")
            self._events.put(error)
        else:
            self._events.put(_RELOADED)

    def _stalled(self, sentence: str) -> None:
        """The engine hangs: end the process, whatever its other threads hold. The system closes the connections, and the broker
        gives the hosts to a standby."""

        def say() -> None:
            LOG.critical("%s", sentence)
            self._log.close(_LAST_WORDS_SECONDS)

        _within(_LAST_WORDS_SECONDS, say)
        os._exit(1)

    def _sections(self) -> list[Section]:
        """What a report has, in every phase."""
        conf, worker = self._conf, self._worker
        process = [
            Section("process", lambda: (version_line(), f"phase: {self._phase()}")),
            Section("threads", thread_lines),
            Section("log", lambda: log_lines(self._log)),
        ]
        of_worker = [] if worker is None else worker.window.sections()
        configuration = [] if conf is None else [Section("configuration", lambda: masked_options(conf))]
        return [*process, *of_worker, *configuration]

    def _phase(self) -> str:
        if self._signalled:
            return "stopping"
        return "starting" if not self._ready else "serving"

    # --- the end -----------------------------------------------------------------------------------------------------

    def _refuse(self, error: BaseException) -> None:
        """End the process because the start has failed. Raises the error if there is no log yet."""
        if not self._logging:
            raise error
        if not isinstance(error, (ConfigurationError, TrackerError, CommandFailed)):
            LOG.critical("the start failed", exc_info=error)
        else:
            text = " ".join(str(error).split())
            _within(_LAST_WORDS_SECONDS, lambda: click.echo(f"{PROJECT}: {text}", err=True))
        self._log.close(_LAST_WORDS_SECONDS)
        os._exit(1)

    def _stop(self, code: int, reason: str = "") -> NoReturn:
        """Stop everything that was started, and end the process within the time that a stop may take. The last line of the log
        is the ``reason``, if there is one."""
        until = time.monotonic() + self._stop_seconds
        last_words = min(_LAST_WORDS_SECONDS, self._stop_seconds / 10)
        notify_systemd("STOPPING=1", status("the worker stops"))
        stopping = NamedThread(target=lambda: self._stop_worker(until - last_words), name="tracker-stop")
        stopping.start()
        stopping.join(max(0.0, until - last_words - time.monotonic()))
        if stopping.is_alive():
            LOG.warning("the stop takes longer than %g s; the rest is left to the next start", self._stop_seconds)
        else:
            LOG.info("stopped")
        if reason:
            LOG.critical("%s", reason)
        self._log.close(min(_LAST_WORDS_SECONDS, until - time.monotonic()))
        os._exit(code)

    def _stop_worker(self, until: float) -> None:
        if self._worker is not None:
            try:
                self._worker.stop(until - time.monotonic())
            except Exception:
                LOG.exception("the stop failed; the rest is left to the next start")


def _within(seconds: float, function: Callable[[], object]) -> None:
    """Call ``function``, which may hang, and wait for it for at most so long."""
    thread = NamedThread(target=function, name="tracker-last")
    thread.start()
    thread.join(seconds)


def _freeze_memory() -> None:
    """Exempt all present objects, which live as long as the worker, from garbage collection.

    Collecting them again would pause the worker, and every caller would wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
