"""
What devices send.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

#: Check-in messages (C{MessageType}).
CHECKINS: Final = (
    *("Authenticate", "TokenUpdate", "CheckOut", "UserAuthenticate"),
    *("SetBootstrapToken", "GetBootstrapToken", "DeclarativeManagement", "GetToken"),
)

#: What reports say of commands (C{Status}).
STATUSES: Final = ("Idle", "Acknowledged", "Error", "CommandFormatError", "NotNow")


class DeviceMetrics:
    """
    Messages that were accepted.

    @param registry: has the metrics; L{None} where nobody looks at them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        checkins = Counter(
            "nanomdm_checkins_total",
            "Check-in messages accepted, by type",
            ["type"],
            registry=registry,
        )
        reports = Counter(
            "nanomdm_command_reports_total",
            "Answers to commands and requests for work (Idle) accepted, by status",
            ["status"],
            registry=registry,
        )
        self._checkins = {type: checkins.labels(type) for type in CHECKINS}
        self._reports = {status: reports.labels(status) for status in STATUSES}
        self._other = reports.labels("other")

    def checked_in(self, message_type: str) -> None:
        """
        Count a check-in message.

        @param message_type: one of L{CHECKINS}.
        """
        self._checkins[message_type].inc()

    def reported(self, status: str) -> None:
        """
        Count a command report.

        @param status: as the device says it.
        """
        self._reports.get(status, self._other).inc()
