# SPDX-License-Identifier: Apache-2.0
"""The port behind which inventory drivers live, and the one way to load them."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from oslo_config import cfg
from stevedore import named

from tracker_worker.errors import ConfigurationError

#: Where packages announce their drivers; the entry point's name is the value of ``[tracker] inventory_driver``.
ENTRY_POINT_GROUP = "tracker_worker.inventory"


class InventoryDriver(abc.ABC):
    """Says which nodes a host has and what each of them has. It decides nothing and keeps no ledger.

    One driver object serves one host. The constructor is called once, before anything is consumed, with exactly
    ``(host, conf)``; it may read files but must not wait for a hypervisor.

    Threads: the two ``get_`` methods are called from worker pool threads. There are never two calls at a time for
    the same host and node; calls for different nodes may run at the same time, also with ``reload()``. A call may be
    slow: claims are decided meanwhile, and no lock of the ledger is held.

    What a driver returns belongs to the caller, who may change it; the driver hands out copies. Whether it makes
    sense (keys, types, ranges) is checked by the caller, so that one rule holds for every driver.
    """

    def __init__(self, host: str, conf: cfg.ConfigOpts) -> None:
        """``host`` is the host to report; ``conf`` is read, never written.

        Raises: ConfigurationError when the options cannot work, in one sentence for the operator.
        """
        self.host = host

    @abc.abstractmethod
    def get_available_nodes(self) -> Sequence[str]:
        """The names of the host's nodes now, each once, in a stable order. Asked again at every audit.

        Raises: anything, when the nodes cannot be found out now. It is logged and tried again at the next audit.
        """

    @abc.abstractmethod
    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """What the node has.

        Required keys; they must be there, and may be 0 or ``""``:

        - ``vcpus``, ``memory_mb`` (MiB), ``local_gb`` (GiB): the totals, integers of 0 or more. What the host keeps
          for itself is not subtracted: the reserve options do that.
        - ``vcpus_used``, ``memory_mb_used``, ``local_gb_used``: what is in use now, whoever uses it. For people to
          read; the ledger counts its own usage, so that a claim which is already built is not counted twice.
        - ``cpu_info``: text about the processors, JSON by convention.

        Optional keys: ``hypervisor_type`` (text), ``hypervisor_version`` (integer), ``hypervisor_hostname`` (text),
        ``disk_available_least`` (GiB that can be written now, integer, may be negative). Others are ignored.

        A falsy answer says that the node is not supported, or not any more: it is disabled, and builds on it are
        neither charged nor stopped until an audit gets an answer again.

        Raises: anything, when the answer cannot be found out now. It is logged, what was known stays, and the next
        audit tries again; in the first audit it ends the start.
        """

    def reload(self) -> None:  # noqa: B027 - a hook: most drivers have nothing to read again
        """Read again what was read at construction (SIGHUP). Answers change from the next call on.

        Raises: ConfigurationError when the new state is bad; the driver then goes on with the old one, untouched.
        """


def load_driver(name: str, host: str, conf: cfg.ConfigOpts) -> InventoryDriver:
    """The driver that an installed package announces under ``name``, constructed for ``host``.

    Raises: ConfigurationError for a name that nothing or more than one package announces, a driver that cannot be
    imported (an optional dependency that is missing, say) or is no InventoryDriver, and for what the driver's own
    constructor finds wrong with the options. Another exception of a constructor is a bug of the driver and passes.
    """
    manager: named.NamedExtensionManager[Any] = named.NamedExtensionManager(
        ENTRY_POINT_GROUP,
        [name],
        on_load_failure_callback=_refuse_unloadable,
        # A name that is missing is ours to report, once, and not stevedore's to log.
        on_missing_entrypoints_callback=None,
    )
    found = [extension.plugin for extension in manager.extensions]
    if not found:
        available = ", ".join(sorted(set(manager.entry_points_names()))) or "none"
        raise ConfigurationError(f"There is no inventory driver {name!r}; available: {available}.")
    if len(found) > 1:
        where = ", ".join(sorted(f"{plugin.__module__}:{plugin.__qualname__}" for plugin in found))
        raise ConfigurationError(f"More than one installed package has an inventory driver {name!r}: {where}.")
    driver_class = found[0]
    if not (isinstance(driver_class, type) and issubclass(driver_class, InventoryDriver)):
        raise ConfigurationError(f"The inventory driver {name!r} is not a subclass of InventoryDriver.")
    return driver_class(host, conf)


def _refuse_unloadable(manager: object, entry_point: EntryPoint, error: BaseException) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ConfigurationError(f"The inventory driver {entry_point.name!r} cannot be loaded: {reason}.") from error
