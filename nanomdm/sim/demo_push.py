"""
How the demonstration's Mac is woken.
"""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred

from nanomdm.sim.apns import SeenPush
from nanomdm.sim.channel import Channel
from nanomdm.sim.demo_terminal import Terminal


class PushAlarm:
    """
    Hears of pushes for a device, and wakes whoever plays it.  Pushes that come
    while the device is awake wake it once more.

    @param device: the device.
    @param terminal: where pushes are shown that the device does not recognize.
    """

    def __init__(self, device: Channel, terminal: Terminal) -> None:
        self._device = device
        self._terminal = terminal
        self._pushes = 0
        self._waiting: Deferred[int] | None = None

    def ring(self, push: SeenPush) -> None:
        """
        A push was accepted by APNs.
        """
        device = self._device
        if push.token != device.token.hex():
            self._terminal.step("APNs", "push", "for another token: the Mac does not get it")
        elif json.loads(push.payload).get("mdm") != device.push_magic:
            self._terminal.step("APNs", "push", "not the Mac's push magic: it sleeps on")
        else:
            self._pushes += 1
            self._wake()

    def wait(self) -> Deferred[int]:
        """
        Sleep until the next push.

        @return: how many there were since the last time, at least one.
        """
        waiting = self._waiting = Deferred(self._give_up)
        self._wake()
        return waiting

    def forget(self) -> None:
        """
        Do not wake because of what came until now.
        """
        self._pushes = 0

    def _wake(self) -> None:
        if self._pushes and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            pushes, self._pushes = self._pushes, 0
            waiting.callback(pushes)

    def _give_up(self, _: Deferred[int]) -> None:
        self._waiting = None
