# SPDX-License-Identifier: Apache-2.0
"""The interface of inventory drivers, and the function that loads a driver."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from oslo_config import cfg
from stevedore import named

from tracker_worker.errors import ConfigurationError

#: The entry point group of inventory drivers; the name of an entry point is the value of ``[tracker] inventory_driver``.
ENTRY_POINT_GROUP = "tracker_worker.inventory"


class InventoryDriver(abc.ABC):
    """Reports which nodes a host has, and the inventory of each node. A driver decides nothing and keeps no ledger.

    One driver object serves one host. The worker calls the constructor once, before it consumes requests, with exactly
    ``(host, conf)``. The constructor may read files but must not wait for a hypervisor.

    Threads: the worker calls the two ``get_`` methods on threads of a pool. Two calls for the same host and node never
    run at the same time; calls for different nodes may, also together with ``reload()``. A call may be slow: the worker
    goes on deciding claims and holds no lock of the ledger during the call.

    A returned object belongs to the caller, who may change it, so a driver returns copies. The caller checks keys, types
    and ranges, so that the same rules hold for every driver.
    """

    def __init__(self, host: str, conf: cfg.ConfigOpts) -> None:
        """``host`` is the host to report. The driver reads ``conf`` and never writes it.

        Raises: ConfigurationError when the options cannot work, with one sentence for the operator.
        """
        self.host = host

    @abc.abstractmethod
    def get_available_nodes(self) -> Sequence[str]:
        """The names of the host's current nodes, each once, in a stable order. Every audit calls this method.

        A node that is no longer listed is missing and takes no claims. A name has 1 to 255 characters, none of them a control
        character; a node with another name is left out.

        Raises: any exception when the driver cannot list the nodes now. The worker logs it, and the next audit tries again;
        until then the nodes that were listed count as failed.
        """

    @abc.abstractmethod
    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """The inventory of the node.

        Required keys, whose values may be 0 or ``""``:

        - ``vcpus``, ``memory_mb`` (MiB), ``local_gb`` (GiB): the totals, integers of 0 or more. The driver does not
          subtract the host's reserve: the reserve options do that.
        - ``vcpus_used``, ``memory_mb_used``, ``local_gb_used``: the amounts in use now by any process, for people to
          read. The ledger counts its own usage, so that an instance which is already built is not counted twice.
        - ``cpu_info``: text about the processors, JSON by convention.

        Optional keys: ``hypervisor_type`` (text), ``hypervisor_version`` (integer), ``hypervisor_hostname`` (text),
        ``disk_available_least`` (GiB that can be written now, integer, may be negative); ``resources``, an object: resource
        class -> its total, or an object with any of ``total``, ``reserved``, ``allocation_ratio``, ``min_unit``, ``max_unit``
        and ``step_size``. It declares custom classes (``[A-Z][A-Z0-9_]*``), and says of VCPU, MEMORY_MB and DISK_GB everything
        but the total. Other keys are ignored.

        A falsy answer says that the driver does not support the node. A node that never had an inventory is then
        unsupported: builds on it are neither charged nor stopped until an audit gets an inventory.

        Raises: any exception when the driver cannot read the inventory now. The worker logs it, shows its text as the reason
        of the node's state, and tries again at the next audit. A call that has not returned after 30 s counts as a failure
        until it returns. A node that had an inventory keeps it, and is stale until the driver answers again.
        """

    def reload(self) -> None:  # noqa: B027 - a hook: most drivers have nothing to reload
        """Read again what the constructor read (on SIGHUP). The next call of a ``get_`` method returns the new state.

        Raises: ConfigurationError when the new state is bad; the driver then keeps the old state unchanged.
        """


def configured_driver(conf: cfg.ConfigOpts, host: str) -> InventoryDriver:
    """The driver that ``[tracker] inventory_driver`` names, for ``host``. Raises ConfigurationError, which names the option,
    as ``load_driver`` does."""
    name = conf.tracker.inventory_driver
    try:
        return load_driver(name, host, conf)
    except ConfigurationError as error:
        raise ConfigurationError(f"[tracker] inventory_driver {name}: {error}") from error


def load_driver(name: str, host: str, conf: cfg.ConfigOpts) -> InventoryDriver:
    """Construct the driver that an installed package registers under ``name``, for ``host``.

    Raises: ConfigurationError when no package or more than one package registers the name, when the driver cannot be
    imported (an optional dependency is missing, for example) or is not an InventoryDriver, and when the constructor
    refuses the options. Any other exception of the constructor is a bug of the driver and is raised unchanged.
    """
    manager: named.NamedExtensionManager[Any] = named.NamedExtensionManager(
        ENTRY_POINT_GROUP,
        [name],
        on_load_failure_callback=_refuse_unloadable,
        # The code below reports a missing name once; stevedore must not log it too.
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
