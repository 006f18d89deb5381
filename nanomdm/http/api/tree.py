"""
Where each endpoint of the API is.
"""

from __future__ import annotations

from nanomdm.http.api.commands import CommandsFolder
from nanomdm.http.api.enqueue import EnqueueEndpoint
from nanomdm.http.api.enrollments import EnrollmentListEndpoint
from nanomdm.http.api.escrow import EscrowKeyUnlockEndpoint
from nanomdm.http.api.openapi import OpenAPIEndpoint
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.push import PushCertEndpoint, PushEndpoint
from nanomdm.http.api.webhook import FailedEventsEndpoint, RetryEndpoint
from nanomdm.http.endpoint import Folder
from nanomdm.service.enqueue import CommandEnqueuer


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
    v1.putChild(b"enrollments", EnrollmentListEndpoint(parts))
    v1.putChild(b"commands", CommandsFolder(parts))
    v1.putChild(b"openapi.yaml", OpenAPIEndpoint())
    return v1


def _webhook(parts: APIParts) -> Folder:
    events = Folder()
    events.putChild(b"failed", FailedEventsEndpoint(parts.keys, parts.storage))
    events.putChild(b"retry", RetryEndpoint(parts.keys, parts.storage, parts.wake))
    return events
