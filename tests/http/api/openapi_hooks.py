"""
What schemathesis can not know from the document: what a property list and a PEM file are, how
a device signs, and what the other operations need.  It loads this into its own process.
"""

from __future__ import annotations

import json
import os
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import schemathesis
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import strategies

from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.signing import sign_like_device
from tests import samples

#: Where L{tests.http.api.test_openapi} and this leave things for each other.
SCENE = Path(os.environ["NANOMDM_TEST_SCENE"])

_KNOWN = json.loads((SCENE / "scene.json").read_text())
DEVICE, TOPIC, SPARE = _KNOWN["device"], _KNOWN["topic"], _KNOWN["spare"]

#: Cursors that lists gave out, by operation.
CURSORS = _KNOWN["cursors"]

#: Of these, what destroys something gets the next one each time.
_ENROLLMENTS = cycle(f"spare-{number}" for number in range(SPARE))
_COMMANDS = cycle(f"spare-{number}" for number in range(SPARE))

#: What is about several enrollments gets the next of these.  APNs refuses the device.
_IDS = cycle((None, DEVICE, None, f"{DEVICE},queue", None, "queue"))

_FOR_DEVICES = ("mdm", "checkIn", "proxy")


def _identity() -> DeviceIdentity:
    key = load_pem_private_key((SCENE / "device.key").read_bytes(), None)
    return DeviceIdentity(key, load_pem_x509_certificate((SCENE / "device.pem").read_bytes()))


_IDENTITY = _identity()

_REPORTS = (
    samples.report("Idle", udid=DEVICE),
    samples.report("Acknowledged", "0001_DeviceInformation", DEVICE),
    samples.report("NotNow", "0003_Restart", DEVICE),
)
_CHECKINS = (
    samples.token_update(DEVICE, Topic=TOPIC),
    samples.checkin("GetBootstrapToken", DEVICE),
    samples.checkin("SetBootstrapToken", DEVICE, BootstrapToken=b"token"),
    samples.checkin("UserAuthenticate", DEVICE, UserID="U2"),
    # For /migration.
    samples.authenticate("M1", Topic=TOPIC),
    samples.token_update("M1", Topic=TOPIC),
)
_COMMAND = strategies.builds(
    samples.command,
    strategies.sampled_from(["A", "B", "0001_DeviceInformation"]),
    strategies.sampled_from(["DeviceInformation", "ProfileList"]),
)

for name, strategy in {
    "application/x-plist": _COMMAND,
    "application/x-pem-file": strategies.just((SCENE / "push.pem").read_bytes()),
    "application/x-apple-aspen-mdm": strategies.sampled_from(_REPORTS),
    "application/x-apple-aspen-mdm-checkin": strategies.sampled_from(_CHECKINS),
}.items():
    schemathesis.openapi.media_type(name, strategy)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """
    Make the request one that the server can accept, if it is to; and let what destroys
    something destroy nothing that others need.
    """
    operation = case.operation.definition.raw["operationId"]
    if case.meta is None or case.meta.generation.mode.is_positive:
        _complete(case, operation)
    if case.method == "DELETE" and case.path_parameters.get("id", "").startswith(DEVICE):
        _spare(case, operation)


def _complete(case: Any, operation: str) -> None:
    if operation in _FOR_DEVICES:
        body = case.body if isinstance(case.body, bytes) else b""
        case.headers["Mdm-Signature"] = sign_like_device(_IDENTITY, body).decode()
    elif "ids" in case.path_parameters:
        case.path_parameters["ids"] = next(_IDS) or case.path_parameters["ids"]
    elif operation in CURSORS and "cursor" in case.query:
        case.query["cursor"] = CURSORS[operation]
    elif operation == "changeCommand" and case.path_parameters["id"] == DEVICE:
        case.path_parameters["uuid"] = "0003_Restart"


def _spare(case: Any, operation: str) -> None:
    if operation == "cancelCommand":
        case.path_parameters["uuid"] = next(_COMMANDS)
    elif operation == "deleteEnrollment":
        case.path_parameters["id"] = next(_ENROLLMENTS)
    else:
        case.path_parameters["id"] = "queue"


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """
    Note what was answered.
    """
    with (SCENE / "answers").open("a") as file:
        print(case.operation.definition.raw["operationId"], response.status_code, file=file)


@schemathesis.check
def no_internal_error(context: Any, response: Any, case: Any) -> None:
    """
    The server has no trouble of its own, whatever the status.
    """
    assert not re.search(rb"internal (server )?error", response.content, re.IGNORECASE)
