"""
Groups of commands that are made only when they are needed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem


class ListedGroup(click.Group):
    """
    A group that can list its subcommands without making them: that would take longer
    than a shell should wait that completes a line.
    """

    @property
    @abstractmethod
    def listed(self) -> Mapping[str, str]:
        """
        @return: what each subcommand does, on a line, by their names.
        """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """
        @return: the names of those that are listed.
        """
        return list(self.listed)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """
        List the subcommands.
        """
        with formatter.section("Commands"):
            formatter.write_dl(list(self.listed.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """
        @return: the subcommands and options that begin so.
        """
        found = [
            CompletionItem(name, help=help)
            for name, help in self.listed.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
