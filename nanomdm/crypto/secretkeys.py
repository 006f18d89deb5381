"""
The keys that secrets in the database are encrypted with, from C{--secret-key-file} or
C{--secret-keys}.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nanomdm.errors import ConfigError
from nanomdm.keyfiles import key_lines
from nanomdm.values import text

#: Stands first in place of a key where nothing is to be encrypted any more.
PLAIN: Final = "plain"

#: Bytes of a key: AES-256.
_SIZE: Final = 32

#: Bytes of a key's id.
_ID_SIZE: Final = 8


@frozen
class SecretKey:
    """
    A key.

    @ivar id: tells which one it is, and nothing else of it: 16 hexadecimal digits.
    """

    id: str
    cipher: AESGCM = field(repr=False, eq=False)


@frozen
class Keyring:
    """
    All keys of a server.

    @ivar current: encrypts; L{None} if nothing is encrypted.
    @ivar keys: those that decrypt, by id.
    """

    current: SecretKey | None = None
    keys: Mapping[str, SecretKey] = field(factory=dict)


def key_of(secret: bytes) -> SecretKey:
    """
    @param secret: 32 bytes.
    """
    digest = hmac.digest(secret, b"nanomdm secret key id", "sha256")
    return SecretKey(digest[:_ID_SIZE].hex(), AESGCM(secret))


def new_key() -> str:
    """
    @return: a random key, as in a file of keys.
    """
    return base64.b64encode(AESGCM.generate_key(_SIZE * 8)).decode()


def parse_secret_keys(value: str) -> Keyring:
    """
    @param value: keys in base64, separated by commas, the current one first; or
        L{PLAIN} and old ones.
    @raise ConfigError: it is something else; nothing of a key is quoted.
    """
    parts = text(value).split(",")
    return _keyring((f"key {number}", part.strip()) for number, part in enumerate(parts, 1))


def read_secret_keys(path: Path) -> Keyring:
    """
    Read a file with a key in each line; see L{parse_secret_keys} and L{key_lines}.
    Blocks.

    @raise ConfigError: it can not be read or used; the text names the option and the
        line, and no part of a key.
    """
    where = f"--secret-key-file: {path}"
    try:
        return _keyring(key_lines(path, where))
    except _NoKey as error:
        raise ConfigError(f"{where}: {error}") from None


class _NoKey(ConfigError):
    """
    There is none.
    """


def _keyring(entries: Iterable[tuple[str, str]]) -> Keyring:
    """
    @param entries: for each key where it stands, and what stands there.
    """
    keys: dict[str, SecretKey] = {}
    plain = False
    for number, (where, word) in enumerate(entries):
        if word == PLAIN:
            if number:
                raise ConfigError(f"{where}: {PLAIN} can only be the first")
            plain = True
            continue
        key = _parse(word, where)
        if key.id in keys:
            raise ConfigError(f"{where}: the key {key.id} is there already")
        keys[key.id] = key
    if not keys:
        raise _NoKey("there is no key (nanomdmctl secrets key makes one)")
    return Keyring(None if plain else next(iter(keys.values())), keys)


def _parse(word: str, where: str) -> SecretKey:
    try:
        secret = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{where}: is not base64") from None
    if len(secret) != _SIZE:
        raise ConfigError(f"{where}: has {len(secret)} bytes, not {_SIZE}")
    return key_of(secret)
