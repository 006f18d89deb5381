"""
The command C{nanomdmctl}, for those who run the server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from nanomdm import __version__
from nanomdm.ctl.group import ListedGroup

__all__ = ["main"]

#: What each subcommand does, as the first sentence of its own help says.
_LISTED: Final[Mapping[str, str]] = {
    "apikey": "Make a new API key, for the user NAME.",
    "command": "Make a command, queue it for enrollments, and push to them.",
    "completion": "Print what a shell has to read to complete commands, options and request types.",
    "copy": "Copy everything from one database into another.",
    "doctor": "Look whether everything is as the server needs it, and say what to do if not.",
    "enqueue": "Queue the command in FILE for enrollments, and push to them.",
    "enrollments": "See which devices and users there are, and remove them.",
    "export": "Write everything that a database holds to a file.",
    "import": "Add everything that an exported file holds to a database.",
    "migrate": "Send the enrollments of a database to another MDM server.",
    "push": "Push to enrollments: have them ask for their commands.",
    "pushcert": "Store and see the certificates that pushes are sent with.",
    "queue": "See and change what enrollments have to do.",
    "results": "List an enrollment's answers to commands, the newest first, or show one.",
    "schema": "Print, as SQL, what a database lacks for this server; change nothing.",
    "secrets": "Encrypt what is secret in a database: make keys, count, and rewrite.",
    "simulate": "Simulated devices, a simulated push service, and a CA for them: for trials.",
    "status": "Tell what became of a command: who has answered it, and what.",
    "webhook": "See the events that the webhook's receiver did not take, and send them again.",
}

#: Where those are that are not named like their module here.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "export": "transfer:export",
    "import": "transfer:import_",
}


class LazyGroup(ListedGroup):
    """
    Loads a subcommand once it is called.
    """

    @property
    def listed(self) -> Mapping[str, str]:
        """
        @return: all subcommands.
        """
        return _LISTED

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        @return: a subcommand.
        """
        if cmd_name not in _LISTED:
            return None
        module, _, name = _ELSEWHERE.get(cmd_name, f"{cmd_name}:{cmd_name}").partition(":")
        found: click.Command = getattr(import_module(f"{__name__}.{module}"), name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """
        Run a subcommand.

        @raise click.ClickException: a file can not be read, or the output not be written.
        """
        try:
            try:
                return super().invoke(ctx)
            finally:
                _flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(_told(error)) from None


def _flush() -> None:
    """
    @raise OSError: the output can not be written; then nothing of it is left that Python
        would try to write once more at its end.
    """
    if sys.stdout is None:
        # It was closed by who started this.
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _told(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


@click.command(cls=LazyGroup)
@click.version_option(__version__, prog_name="nanomdmctl", message="%(prog)s %(version)s")
def main() -> None:
    """
    Tools for those who run an MDM server.
    """
