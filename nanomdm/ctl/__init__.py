"""
The command C{nanomdmctl}, for those who run the server.
"""

from __future__ import annotations

import click

from nanomdm import __version__
from nanomdm.ctl.apikey import apikey
from nanomdm.ctl.command import command
from nanomdm.ctl.completion import completion
from nanomdm.ctl.copy import copy
from nanomdm.ctl.doctor import doctor
from nanomdm.ctl.enqueue import enqueue
from nanomdm.ctl.enrollments import enrollments
from nanomdm.ctl.migrate import migrate
from nanomdm.ctl.push import push
from nanomdm.ctl.pushcert import pushcert
from nanomdm.ctl.queue import queue
from nanomdm.ctl.results import results
from nanomdm.ctl.schema import schema
from nanomdm.ctl.simulate import simulate
from nanomdm.ctl.transfer import export, import_
from nanomdm.ctl.webhook import webhook

__all__ = ["main"]


@click.group()
@click.version_option(__version__, prog_name="nanomdmctl", message="%(prog)s %(version)s")
def main() -> None:
    """
    Tools for those who run an MDM server.
    """


for one in (
    apikey,
    command,
    completion,
    copy,
    doctor,
    enqueue,
    enrollments,
    export,
    import_,
    migrate,
    push,
    pushcert,
    queue,
    results,
    schema,
    simulate,
    webhook,
):
    main.add_command(one)
