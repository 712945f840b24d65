# SPDX-License-Identifier: Apache-2.0
"""Schedulers whose instances ask for a custom class, and that adopt instances which run already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.invariants.record import RESULT, Place
from tests.support.modern_traffic import ModernScheduler
from tests.support.traffic import HeldInstance

CUSTOM: Mapping[str, Any] = {"VGPU": {"total": 64, "allocation_ratio": 1.5, "step_size": 2, "max_unit": 4}}
"""What the driver of each node declares beside the standard classes."""
_SIZED = 0.25
_AMOUNTS = (0, 1, 2, 2, 4, 6)


class SizedScheduler(ModernScheduler):
    """A scheduler of nodes that have CUSTOM. Some of its amounts are not in the units of the class. Not thread-safe."""

    def _choices(self) -> list[tuple[Callable[[], None], int]]:
        choices = [*super()._choices(), (self._adopt, 3)]
        return [*choices, (self._resize_custom, 3)] if self._held else choices

    def _new(self) -> tuple[Place, dict[str, Any]]:
        place, fields = super()._new()
        if self._random.random() < _SIZED:
            fields["resources"] = {"VGPU": self._random.choice(_AMOUNTS)}
        return place, fields

    def _limits(self, place: Place) -> dict[str, float] | None:
        limits = super()._limits(place)
        return {**(limits or {}), "VGPU": 32.5} if self._random.random() < _SIZED else limits

    def _resize_custom(self) -> None:
        """Report other amounts, or none, of custom classes."""
        uuid = self._any()
        fields = {"uuid": uuid, "resources": self._random.choice((None, {}, {"VGPU": 2}, {"VGPU": 3}, {"FPGA": 1}))}
        self._say(self._held[uuid].place[0], "update_usage", casts=0.5, instance=fields)

    def _adopt(self) -> None:
        """Adopt two new instances of one host, and perhaps one that is charged already."""
        place, fields = self._new()
        _, more = self._new()
        instances = [{**one, "node": place[1], "vm_state": "active", "task_state": None} for one in (fields, more)]
        if self._held and self._random.random() < 0.5:
            held = self._held[self._any()]
            instances += [held.fields] if held.place == place else []
        said = self._say(place[0], "adopt", casts=0.3, insist=True, instances=instances)
        if said is not None and said.outcome != RESULT:
            return
        for one in instances:
            if said is None or one["uuid"] in said.reply["adopted"]:
                self._held.setdefault(one["uuid"], HeldInstance(place, one, building=False))
