"""
C{nanomdmctl completion}: what a shell needs to complete its commands.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_PROGRAM = "nanomdmctl"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """
    Print what a shell has to read to complete commands, options and request types.

    \b
    bash: source <(nanomdmctl completion bash)       in ~/.bashrc
    zsh:  source <(nanomdmctl completion zsh)        in ~/.zshrc
    fish: nanomdmctl completion fish | source        in ~/.config/fish/config.fish
    """
    make = get_completion_class(shell)
    assert make is not None
    variable = f"_{_PROGRAM.upper()}_COMPLETE"
    click.echo(make(context.find_root().command, {}, _PROGRAM, variable).source())
