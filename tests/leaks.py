"""
Secrets that the suite uses, looked for in everything that servers under test say.

L{tests.process.DaemonProcess} looks through what each daemon prints.  Servers in a test's
own process log into C{nanomdm.log} in trial's directory, and this looks through it and
what else is there::

    python -m tests.leaks _trial_temp/nanomdm.log _trial_temp/test.log
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs
from twisted.logger import globalLogPublisher

from nanomdm.config import Settings
from nanomdm.log import LineObserver, logfmt
from tests import samples

#: The file with the log of all servers in this process.
LOG: Final = "nanomdm.log"

#: The API key of all tests.
KEY: Final = "api-key-of-the-suite"

#: What no log may ever have.
ALWAYS: Final = (KEY.encode(), samples.MAGIC.encode(), samples.TOKEN)

#: A shorter one is found in anything.
_SHORTEST: Final = 6

_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")

#: What is between the user's name and the host, in both of the ways of writing DSNs.
_PASSWORDS: Final = (
    re.compile(r"\w+:([^@/\s]+)@"),
    re.compile(r"password=(?:'([^']+)'|([^\s&]+))"),
)

#: Options whose values are secret, and those that may hold a password.
_SECRET: Final = frozenset(
    field.name.replace("_", "-") for field in attrs.fields(Settings) if not field.repr
)
_WITH_PASSWORD: Final = ("storage-dsn", "storage-options", "apns-proxy")


def spellings(secret: bytes) -> Iterator[bytes]:
    """
    @return: how a secret may be written: as it is, or as Python and JSON show it, in
        hexadecimal, percent-encoded, and in base64, also in the middle of something.
    """
    yield secret
    yield repr(secret)[2:-1].encode()
    yield secret.decode("latin-1").encode("unicode-escape")
    yield quote(secret, safe="").encode()
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret)
        # Only those digits that hold nothing but the secret.
        part = encoded[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6]
        yield part
        yield part.translate(bytes.maketrans(b"+/", b"-_"))


def leaked(text: bytes, secrets: Iterable[bytes]) -> list[bytes]:
    """
    @return: the secrets that are in C{text}, however they are written, and the first
        private key.
    """
    keys = _PRIVATE_KEY.findall(text)[:1]
    return [
        *(one for one in secrets if any(spelling in text for spelling in spellings(one))),
        *keys,
    ]


def given_secrets(options: Sequence[str], environment: Mapping[str, str]) -> set[bytes]:
    """
    @param options: of a daemon: C{--name=value}, or C{--name} and C{value}.
    @return: what is secret of that.
    """
    given = [
        (name.removeprefix("NANOMDM_").lower().replace("_", "-"), value)
        for name, value in environment.items()
    ]
    for option, following in pairwise([*options, ""]):
        name, has_value, value = option.removeprefix("--").partition("=")
        given.append((name, value if has_value else following))
    found = {value for name, value in given if name in _SECRET}
    for name, value in given:
        if name == "secret-keys":
            found |= set(value.split(","))
        if name == "secret-key-file" and Path(value).is_file():
            found |= set(Path(value).read_text(errors="replace").split())
        if name in _WITH_PASSWORD:
            matches = (match for pattern in _PASSWORDS for match in pattern.finditer(value))
            found |= {group for match in matches for group in match.groups() if group}
    return {value.encode() for value in found if len(value) >= _SHORTEST}


def secrets_of(options: Sequence[str], environment: Mapping[str, str]) -> set[bytes]:
    """
    @return: what a daemon with such options may not print.  C{--dump} is to print some
        secrets.
    """
    if "--dump" in options or "NANOMDM_DUMP" in environment:
        return set()
    return {*ALWAYS, *given_secrets(options, environment)}


def write_log() -> None:
    """
    Have everything that is logged in this process written into L{LOG}, as a daemon with
    C{--debug} would log it.
    """
    if _observers:
        return
    file = Path(LOG).absolute().open("ab", buffering=0)
    _observers.append(LineObserver(file.write, logfmt, debug=True))
    globalLogPublisher.addObserver(_observers[0])


_observers: Final[list[LineObserver]] = []


def main(paths: Sequence[str]) -> int:
    """
    @return: the exit status: whether there is a secret in one of the files, or no file.
    """
    status = 0
    for path in paths:
        lines = Path(path).read_bytes().splitlines()
        for number, line in enumerate(lines, 1):
            for secret in leaked(line, ALWAYS):
                print(f"{path}:{number}: {secret!r} is in the log")
                status = 1
        print(f"{path}: looked through {len(lines)} lines")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
