"""
The kinds of devices that are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen


@frozen(kw_only=True)
class Hardware:
    """
    What all simulated devices of a kind have in common.

    @ivar name: what such a device is called.
    @ivar model: C{ProductName}.
    @ivar model_name: C{ModelName}.
    @ivar os_version: C{OSVersion}.
    @ivar build_version: C{BuildVersion}.
    @ivar serial_prefix: how serial numbers begin.
    @ivar security: the content of C{SecurityInfo}.
    @ivar is_mac: Macs tell more of themselves in C{Authenticate}, repeat
        C{RequestType} in reports, and have no unlock token.
    """

    name: str
    model: str
    model_name: str
    os_version: str
    build_version: str
    serial_prefix: str
    security: Mapping[str, Any]
    is_mac: bool


MAC: Final = Hardware(
    name="Mac",
    model="Mac15,12",
    model_name="MacBook Air",
    os_version="15.6.1",
    build_version="24G90",
    serial_prefix="C02",
    security={
        "AuthenticatedRootVolumeEnabled": True,
        "FDE_Enabled": True,
        "FDE_HasInstitutionalRecoveryKey": False,
        "FDE_HasPersonalRecoveryKey": True,
        "FirewallSettings": {
            "Applications": [],
            "BlockAllIncoming": False,
            "FirewallEnabled": True,
            "StealthMode": False,
        },
        "ManagementStatus": {
            "EnrolledViaDEP": False,
            "IsUserEnrollment": False,
            "UserApprovedEnrollment": True,
        },
        "SystemIntegrityProtectionEnabled": True,
    },
    is_mac=True,
)

IPAD: Final = Hardware(
    name="iPad",
    model="iPad13,16",
    model_name="iPad",
    os_version="18.6.2",
    build_version="22G100",
    serial_prefix="DMP",
    security={
        "HardwareEncryptionCaps": 3,
        "PasscodeCompliant": True,
        "PasscodeCompliantWithProfiles": True,
        "PasscodePresent": True,
    },
    is_mac=False,
)
