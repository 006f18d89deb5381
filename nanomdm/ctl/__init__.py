"""
The command C{nanomdmctl}, for those who run the server.
"""

from __future__ import annotations

import click

from nanomdm import __version__
from nanomdm.ctl.copy import copy
from nanomdm.ctl.migrate import migrate
from nanomdm.ctl.schema import schema
from nanomdm.ctl.transfer import export, import_

__all__ = ["main"]


@click.group()
@click.version_option(__version__, prog_name="nanomdmctl", message="%(prog)s %(version)s")
def main() -> None:
    """
    Tools for those who run an MDM server.
    """


for command in (copy, export, import_, migrate, schema):
    main.add_command(command)
