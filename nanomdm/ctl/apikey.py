"""
C{nanomdmctl apikey}: a key for somebody else.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

import click

from nanomdm.ctl.options import json_option
from nanomdm.ctl.show import print_item
from nanomdm.http.api.keys import ADMIN_USER, Role

#: Bytes of randomness in a key.
_RANDOM: Final = 32

#: Names that the server takes.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _name(context: click.Context, argument: click.Parameter, value: str) -> str:
    """
    See to it that the server takes the name.
    """
    if value == ADMIN_USER:
        raise click.BadParameter(f"{ADMIN_USER} is the name of the key in --api")
    if not _NAME.fullmatch(value):
        raise click.BadParameter("is not 1 to 64 letters, digits, dots, - and _")
    return value


@click.command()
@click.argument("name", callback=_name)
@click.option(
    "--role",
    type=click.Choice([role.word for role in Role]),
    required=True,
    help="What it is good for: see, queue and push too, or everything.",
)
@json_option
def apikey(name: str, role: str, as_json: bool) -> None:
    """
    Make a new API key, for the user NAME.

    The key is shown once and kept nowhere. The line is for the file that the
    server's --api-key-file names; it does not tell the key.
    """
    key = secrets.token_urlsafe(_RANDOM)
    line = f"{name} {role} {hashlib.sha256(key.encode()).hexdigest()}"
    print_item({"key": key, "line": line}, as_json)
