"""
What another program has written down: a database that NanoMDM or somebody else has filled,
an export, a file of certificates, a form.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from nanomdm.crypto.chain import load_certificates
from nanomdm.crypto.pushcert import parse_stored_certificate
from nanomdm.crypto.secretkeys import new_key, parse_secret_keys, read_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.errors import ConfigError, MessageError, NanoMDMError, SecretUnreadable
from nanomdm.http.api.commands import _inner
from nanomdm.http.api.escrow import _fields
from nanomdm.http.api.facts import described
from nanomdm.http.api.plists import plist_member
from nanomdm.http.api.results import _errors
from nanomdm.interfaces import EnrollmentFacts
from nanomdm.mdm.cutting import without_member
from nanomdm.mdm.migration import EnrolledDevice, UserChannel, parcels
from nanomdm.mdm.plist import parse
from nanomdm.service.escrow import Unlock
from nanomdm.storage import export
from nanomdm.storage.secrets import BOOTSTRAP_TOKEN, EVENT, PUSH_KEY, UNLOCK, UNLOCK_TOKEN
from tests import samples
from tests.crypto import build
from tests.faults.target import Target


def text(data: bytes) -> str:
    """
    As a driver of a database makes text of a column.
    """
    return data.decode("utf-8", "replace")


def halves(data: bytes) -> tuple[bytes, bytes]:
    """
    @return: what is before the first 0xFF, which no text has, and what is behind it.
    """
    first, _, second = data.partition(b"\xff")
    return first, second


def _certificate(data: bytes) -> None:
    certificate, key = map(text, halves(data))
    parse_stored_certificate(samples.TOPIC, certificate, key)


def _facts(data: bytes) -> None:
    pem, authenticate = map(text, halves(data))
    described(
        EnrollmentFacts(
            id="D1",
            type=pem[:31],
            device_id="D1",
            children=(),
            serial_number=pem[:127],
            user_short_name=None,
            user_long_name=None,
            topic=pem[:255],
            enabled=True,
            token_update_tally=1,
            last_seen_at=0.0,
            enrolled_at=0.0,
            identity_pem=pem,
            authenticate=authenticate,
            bootstrap_token=False,
            unlock_token=False,
            dead=None,
            queue_length=0,
        )
    )


def _exchanged(data: bytes) -> None:
    """
    A command and what was answered to it, as the API shows them.
    """
    _inner(data)
    _errors(data)
    plist_member("result", data)


def _parcels(data: bytes) -> None:
    first, rest = halves(data)
    second, token = halves(rest)
    users = (UserChannel("U", first),)
    list(parcels(EnrolledDevice("D1", first, second, b"unlock", text(token), users=users)))


def _form(data: bytes) -> None:
    headers = SimpleNamespace(
        getRawHeaders=lambda name, default: [b"application/x-www-form-urlencoded"]
    )
    Unlock.from_fields(_fields(SimpleNamespace(requestHeaders=headers, body=data)))  # type: ignore[arg-type]


@functools.cache
def vault() -> Vault:
    """
    Has a key.
    """
    return Vault(parse_secret_keys(new_key()))


def _sealed(data: bytes) -> None:
    for column in (PUSH_KEY, BOOTSTRAP_TOKEN, EVENT):
        column.open(vault(), text(data), "D1")
        column.key_id(text(data))
    UNLOCK_TOKEN.open(vault(), data, "D1")


def _sealed_seeds() -> list[bytes]:
    sealed = (PUSH_KEY.seal(vault(), "secret", "D1"), BOOTSTRAP_TOKEN.seal(vault(), "x", "D1"))
    return [b"not sealed", *map(str.encode, sealed), UNLOCK_TOKEN.seal(vault(), b"secret", "D1")]


def _cut(data: bytes) -> None:
    """
    Take a secret out of a message, which must be the same but for that.
    """
    expected = parse(data)
    expected.pop(UNLOCK, None)
    cut = without_member(data, UNLOCK)
    # NaN is not equal to itself.
    assert repr(parse(cut)) == repr(expected), cut


def _secret_keys(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        read_secret_keys(Path(file.name))


def _authorities(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        load_certificates(file.name, "--ca")


def _pairs() -> list[bytes]:
    certificate = build.ca().issue_push(samples.TOPIC, key=build.identity("p256").key)
    return [certificate.pem + b"\xff" + build.pem(certificate.key)]


def _facts_seeds() -> list[bytes]:
    told = samples.authenticate(OSVersion="26", Model="Mac", DeviceName="a")
    return [build.identity(kind).pem + b"\xff" + told for kind in ("rsa", "p256")]


def _commands() -> list[bytes]:
    chain = [{"ErrorCode": 1, "ErrorDomain": "a", "LocalizedDescription": "b"}]
    return [samples.command("C1"), samples.report("Error", "C1", ErrorChain=chain)]


def _export_seeds() -> Iterator[bytes]:
    header = {"format": "nanomdm export", "version": export.VERSION}
    row = {
        "table": "commands",
        "row": {
            **dict.fromkeys(("created_at", "updated_at"), "2026-11-20T00:00:00Z"),
            **{"command_uuid": "C1", "request_type": "A", "command": "<?xml"},
        },
    }
    line, total = export._line(row), export.Total()
    total.add(line)
    yield export._line(header) + line + export._line({"end": {"commands": total.summary}})


TARGETS: Final[dict[str, Target]] = {
    "stored-certificate": Target(
        _certificate, MessageError, _pairs, (b"-----BEGIN CERTIFICATE-----",)
    ),
    "stored-facts": Target(_facts, seeds=_facts_seeds),
    "stored-command": Target(_exchanged, seeds=_commands),
    "stored-messages": Target(
        _parcels,
        MessageError,
        lambda: [b"\xff".join((samples.authenticate(), samples.token_update(), b"dG9rZW4="))],
    ),
    "export": Target(
        lambda data: list(export.read(BytesIO(data))),
        export.Damaged,
        lambda: list(_export_seeds()),
        (b'"base64": ', b"null", b"1e999", b'"table": "devices"'),
    ),
    "sealed": Target(_sealed, SecretUnreadable, _sealed_seeds, (b"nanomdm-secret:v1:",)),
    "cut": Target(
        _cut,
        MessageError,
        lambda: [samples.token_update(), samples.token_update(UnlockToken=b"secret", Z={"a": [1]})],
        (b"<key>UnlockToken</key>", b"<data/>", b"<dict>", b"</dict>", b"<!-- > -->", b"<![CDATA["),
    ),
    "secret-keys": Target(
        _secret_keys, ConfigError, lambda: [f"# x\nplain\n{new_key()}\n".encode()], (b"plain\n",)
    ),
    "unlock-form": Target(
        _form,
        NanoMDMError,
        lambda: [b"topic=a&serial=b&productType=c&escrowKey=d&orgName=e&guid=f"],
        (b"%00", b"&", b"=", b"%ff", b"+"),
    ),
    "certificate-file": Target(
        _authorities, ConfigError, functools.partial(list, [build.ca().pem])
    ),
}
