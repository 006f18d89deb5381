"""
What the API is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import field, frozen

from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.turns import Turns
from nanomdm.http.offload import Offloader
from nanomdm.interfaces import IPusher, IStorage
from nanomdm.service.escrow import EscrowKeyUnlocker


@frozen
class APIParts:
    """
    What the API works with.

    @ivar wake: tells who delivers the webhook's events, if it is this server.
    @ivar now: the time, with its zone.
    @ivar secrets: whether admins may read bootstrap and unlock tokens.
    @ivar forget: is told the id of each enrollment that was purged, so that nothing is
        believed of it any more; L{None} where no devices are served.
    @ivar turns: for what may be large.
    """

    keys: APIKeys
    storage: IStorage
    pusher: IPusher
    offloader: Offloader
    unlocker: EscrowKeyUnlocker
    wake: Callable[[], None] | None
    now: Callable[[], datetime]
    secrets: bool
    forget: Callable[[str], None] | None = None
    turns: Turns = field(factory=Turns)
