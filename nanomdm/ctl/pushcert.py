"""
C{nanomdmctl pushcert}: the certificates that pushes are sent with.
"""

from __future__ import annotations

from typing import BinaryIO

import click

from nanomdm.ctl.client import Client
from nanomdm.ctl.options import api_options, json_option
from nanomdm.ctl.show import print_item


@click.group()
def pushcert() -> None:
    """
    Store and see the certificates that pushes are sent with.
    """


@pushcert.command()
@api_options
@click.argument("files", type=click.File("rb"), nargs=-1, required=True, metavar="FILE...")
@json_option
def put(client: Client, files: tuple[BinaryIO, ...], as_json: bool) -> None:
    """
    Store a push certificate with its key.

    Both are PEM, in one FILE or in two; "-" stands for standard input. The key must
    not be encrypted.
    """
    body = b"\n".join(file.read() for file in files)
    print_item(client.request("PUT", "/v1/pushcert", body, again=True).json, as_json)


@pushcert.command()
@api_options
@click.argument("topic")
@json_option
def show(client: Client, topic: str, as_json: bool) -> None:
    """
    Tell until when a topic's push certificate is good.
    """
    print_item(client.get("/v1/pushcert", topic=topic).json, as_json)
