"""
What is said of a command in the catalogue: its keys, and when to be careful.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any, Final

from attrs import field, frozen

#: Where a word of a key's name begins: C{manifest} and C{URL}, C{UUID}, C{iTunes}.
_WORD: Final = re.compile(
    r"iTunes|iOS|FileVault|WiFi|eSIM|[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+|[A-Z]+s\b"
)


class Kind(Enum):
    """
    What the value of a key is.
    """

    TEXT = auto()
    #: Text that nobody is to read on the way.
    SECRET = auto()
    #: Six digits.
    PIN = auto()
    #: Text that begins with C{https:}.
    URL = auto()
    INTEGER = auto()
    BOOLEAN = auto()
    #: An array of texts.
    TEXTS = auto()
    #: Bytes.
    DATA = auto()
    #: A configuration profile: XML, or CMS around it.
    PROFILE = auto()
    #: An unlock token: bytes, perhaps as base64.
    TOKEN = auto()
    #: A certificate's DER.
    CERTIFICATE = auto()
    #: An array of certificates.
    CERTIFICATES = auto()
    #: A dictionary.
    DICTIONARY = auto()
    #: An array of dictionaries, or one of them.
    DICTIONARIES = auto()
    #: An array of dictionaries with a member C{Item}, as single members.
    SETTINGS = auto()


class Care(Enum):
    """
    When somebody is to say yes before a command is sent.
    """

    NEVER = auto()
    #: With more than one enrollment.
    SEVERAL = auto()
    ALWAYS = auto()


@frozen
class Key:
    """
    One key of a command.

    @ivar path: its name; inside of a dictionary or an array with the names, or the
        places from 0, that lead there, dots between them.
    @ivar help: what it means, in a few words.
    @ivar required: the command is nothing without it.
    @ivar choices: its values, if there are no others.
    @ivar default: its value if none is given; L{None} leaves it out.
    @ivar bounds: the lowest and the highest number, if there are such.
    @ivar option: its name on a command line, without the dashes in front.
    """

    path: str
    kind: Kind
    help: str
    required: bool = field(default=False, kw_only=True)
    choices: tuple[str, ...] = field(default=(), kw_only=True)
    default: Any = field(default=None, kw_only=True)
    bounds: tuple[int | None, int | None] | None = field(default=None, kw_only=True)
    option: str = field(kw_only=True)

    @option.default
    def _option(self) -> str:
        return "-".join(_WORD.findall(self.path.rpartition(".")[2])).lower()


@frozen
class Known:
    """
    A command of the catalogue.

    @ivar request_type: its C{RequestType}.
    @ivar help: what it does, in one line.
    @ivar schema: the file in C{mdm/commands} of Apple's published schemas where its keys
        come from, without C{.yaml}.
    @ivar keys: its keys.
    @ivar any_of: of these paths one must be given at least, if there are any.
    @ivar needs: pairs of paths: the first is nothing without the second.
    """

    request_type: str
    help: str
    schema: str
    keys: tuple[Key, ...] = ()
    care: Care = field(default=Care.NEVER, kw_only=True)
    any_of: tuple[str, ...] = field(default=(), kw_only=True)
    needs: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)

    @property
    def page(self) -> str:
        """
        Where Apple describes it.
        """
        return (
            "https://github.com/apple/device-management/blob/release/mdm/commands/"
            f"{self.schema}.yaml"
        )

    def option(self, path: str) -> str:
        """
        @return: how the key with a path is given on a command line.
        """
        return " or ".join(f"--{key.option}" for key in self.keys if key.path == path)
