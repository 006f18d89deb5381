"""
The contracts between the layers.

Every storage method returns a Deferred that fires after the transaction which
holds its effect is committed.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from nanomdm.interfaces.devices import (
    AssociationFacts,
    CertificateHolder,
    IAssociationStore,
    IBootstrapTokenStore,
    ICommandStore,
    IEnrollmentStore,
    IMigrationStore,
    ITokenHandler,
    QueueSummary,
    ReportOutcome,
)
from nanomdm.interfaces.events import (
    Backlog,
    FailedEvent,
    IEventStore,
    QueuedEvent,
)
from nanomdm.interfaces.inspection import (
    CommandAnswer,
    CommandTarget,
    EnrollmentFacts,
    EnrollmentFilter,
    IInspectionStore,
    Listing,
    OutstandingCommand,
    Page,
    ResultFilter,
    SecretsCursor,
    SecretsPage,
    StoredCommand,
)
from nanomdm.interfaces.pushes import (
    DeadToken,
    IPusher,
    IPushStore,
    ListedPushCertificate,
    PushAgain,
    PushResult,
    PushTarget,
    StoredPushCertificate,
)

__all__ = [
    "AssociationFacts",
    "Backlog",
    "CertificateHolder",
    "CommandAnswer",
    "CommandTarget",
    "DeadToken",
    "EnrollmentFacts",
    "EnrollmentFilter",
    "FailedEvent",
    "IAssociationStore",
    "IBootstrapTokenStore",
    "ICommandStore",
    "IEnrollmentStore",
    "IEventStore",
    "IInspectionStore",
    "IMigrationStore",
    "IPushStore",
    "IPusher",
    "IStorage",
    "ITokenHandler",
    "ListedPushCertificate",
    "Listing",
    "OutstandingCommand",
    "Page",
    "PushAgain",
    "PushResult",
    "PushTarget",
    "QueueSummary",
    "QueuedEvent",
    "ReportOutcome",
    "ResultFilter",
    "SecretsCursor",
    "SecretsPage",
    "StoredCommand",
    "StoredPushCertificate",
]


class IStorage(
    IEnrollmentStore,
    IBootstrapTokenStore,
    ICommandStore,
    IAssociationStore,
    IMigrationStore,
    IPushStore,
    IEventStore,
    IInspectionStore,
):
    """
    Everything that must outlive the process.
    """

    def start() -> None:
        """
        Begin to serve; called once the process is where it will stay.
        """

    def stop() -> Deferred[None]:
        """
        Write what is still in memory and close.
        """
