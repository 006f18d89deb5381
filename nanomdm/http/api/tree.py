"""
Where each endpoint of the API is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import frozen

from nanomdm.http.api.enqueue import EnqueueEndpoint
from nanomdm.http.api.escrow import EscrowKeyUnlockEndpoint
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.push import PushCertEndpoint, PushEndpoint
from nanomdm.http.api.webhook import FailedEventsEndpoint, RetryEndpoint
from nanomdm.http.endpoint import Folder
from nanomdm.http.offload import Offloader
from nanomdm.interfaces import IPusher, IStorage
from nanomdm.service.enqueue import CommandEnqueuer
from nanomdm.service.escrow import EscrowKeyUnlocker


@frozen
class APIParts:
    """
    What the API works with.

    @ivar wake: tells who delivers the webhook's events, if it is this server.
    @ivar now: the time, with its zone.
    @ivar secrets: whether admins may read bootstrap and unlock tokens.
    """

    keys: APIKeys
    storage: IStorage
    pusher: IPusher
    offloader: Offloader
    unlocker: EscrowKeyUnlocker
    wake: Callable[[], None] | None
    now: Callable[[], datetime]
    secrets: bool


def api_tree(parts: APIParts) -> Folder:
    """
    @return: C{/v1}.
    """
    keys, storage, offloader = parts.keys, parts.storage, parts.offloader
    v1 = Folder()
    enqueuer = CommandEnqueuer(storage, parts.pusher)
    v1.putChild(b"enqueue", EnqueueEndpoint(keys, enqueuer, offloader))
    v1.putChild(b"push", PushEndpoint(keys, parts.pusher, offloader))
    v1.putChild(b"pushcert", PushCertEndpoint(keys, storage, offloader, parts.now))
    v1.putChild(b"escrowkeyunlock", EscrowKeyUnlockEndpoint(keys, parts.unlocker))
    v1.putChild(b"webhook", _webhook(parts))
    return v1


def _webhook(parts: APIParts) -> Folder:
    events = Folder()
    events.putChild(b"failed", FailedEventsEndpoint(parts.keys, parts.storage))
    events.putChild(b"retry", RetryEndpoint(parts.keys, parts.storage, parts.wake))
    return events
