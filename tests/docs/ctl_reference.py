"""
C{python -m tests.docs.ctl_reference}: rewrites the reference at the end of
C{docs/nanomdmctl.md}, which has all commands and their options.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from nanomdm.ctl import main
from nanomdm.ctl.command import CommandGroup
from nanomdm.ctl.options import api_options
from nanomdm.ctl.targets import target_options
from nanomdm.mdm.catalogue import CATALOGUE, Care
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "nanomdmctl.md"

#: What the reference begins with.
HEAD = """\
## All commands

What follows is made from the commands themselves, by `python -m tests.docs.ctl_reference`. Each has
`--help` too, which says the same.

"""

#: Options that many commands share, and what the reference calls them.
SHARED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "Options of the server": api_options,
    "Options of the targets": target_options,
}

#: Stands for the request types that are not in the catalogue.
ANY_TYPE = "OtherRequestType"

CARE = {Care.NEVER: "", Care.SEVERAL: "for several", Care.ALWAYS: "always"}

_WIDTH = 112


def page() -> str:
    """
    @return: what C{docs/nanomdmctl.md} is to be.
    """
    return PAGE.read_text().partition("\n## All commands\n")[0].rstrip() + "\n\n" + reference()


def reference() -> str:
    """
    @return: the part of it about all commands.
    """
    text = HEAD
    for name, decorator in SHARED.items():
        text += f"### {name}\n\n{table(options_of(decorator))}\n"
    context = click.Context(main, info_name="nanomdmctl")
    return text + "\n".join(sections(main, context)) + "\n".join(known_commands())


def commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """
    @return: what can be called of a command: itself or what is below it; the commands
        for devices are one.
    """
    if isinstance(command, CommandGroup):
        name = ANY_TYPE
    elif isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from below(command, name, context)
        return
    else:
        yield command, context
        return
    yield from below(command, name, context)
    yield from below(command, "raw", context)


def below(
    group: click.Group, name: str, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """
    @return: what can be called of a subcommand.
    """
    found = group.get_command(context, name)
    assert found is not None, name
    yield from commands(found, click.Context(found, info_name=name, parent=context))


def sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """
    @return: a text on each command.
    """
    for one, where in commands(command, context):
        path = where.command_path.replace(ANY_TYPE, "REQUEST_TYPE")
        usage = " ".join([path, *one.collect_usage_pieces(where)])
        group = where.parent if where.info_name == ANY_TYPE else None
        explained = paragraphs((group.command if group else one).help or "")
        own, shared = apart(one.params)
        text = f"### {path}\n\n```text\n{usage}\n```\n\n{explained}\n"
        if own:
            text += f"\n{table(own)}"
        if shared:
            links = " and ".join(f"[{name.lower()}](#{anchor(name)})" for name in shared)
            text += f"\n{'And' if own else 'Has'} the {links}.\n"
        yield text


def known_commands() -> Iterator[str]:
    """
    @return: a text on all commands for devices, and on the options of each.
    """
    rows = "".join(
        f"| `{name}` | {marked(known.help)} | {CARE[known.care]} |\n"
        for name, known in CATALOGUE.items()
    )
    yield (
        "\n### The request types\n\nEach has the options of `nanomdmctl command REQUEST_TYPE`, and"
        " those below here. The last column\nsays when somebody has to say yes, or `--yes`.\n\n"
        f"| request type | | asks |\n| --- | --- | --- |\n{rows}"
    )
    group = main.get_command(click.Context(main), "command")
    assert isinstance(group, click.Group)
    context = click.Context(group)
    other = group.get_command(context, ANY_TYPE)
    assert other is not None
    common = {tuple(option.opts) for option in other.params}
    for name in CATALOGUE:
        command = group.get_command(context, name)
        assert command is not None
        own = [option for option in command.params if tuple(option.opts) not in common]
        if own:
            yield f"#### {name}\n\n{table(own)}"


def options_of(decorator: Callable[[Callable[..., Any]], Callable[..., Any]]) -> list[click.Option]:
    """
    @return: the options that a decorator gives a command.
    """
    made = click.command()(decorator(lambda: None))
    return [option for option in made.params if isinstance(option, click.Option)]


def apart(parameters: Iterable[click.Parameter]) -> tuple[list[click.Option], list[str]]:
    """
    @return: the options that are a command's own, and the names of those that it shares.
    """
    options = [one for one in parameters if isinstance(one, click.Option) and not one.hidden]
    shared = []
    for name, decorator in SHARED.items():
        parts = {(tuple(one.opts), one.help) for one in options_of(decorator)}
        if parts <= {(tuple(one.opts), one.help) for one in options}:
            options = [one for one in options if (tuple(one.opts), one.help) not in parts]
            shared.append(name)
    return options, shared


def table(options: Iterable[click.Parameter]) -> str:
    """
    @return: the table of some options.
    """
    rows = "".join(row(option) for option in options if isinstance(option, click.Option))
    return f"| option | meaning |\n| --- | --- |\n{rows}"


def row(option: click.Option) -> str:
    """
    @return: the line of the table about an option.
    """
    context = click.Context(main)
    names = " / ".join([*option.opts, *option.secondary_opts])
    if not option.is_flag:
        names += f" {option.make_metavar(context)}"
    extra = option.get_help_extra(context)
    meaning = marked(option.help or "")
    if "range" in extra:
        meaning += f" `{extra['range']}`."
    if "default" in extra:
        meaning += f" Default: `{extra['default']}`."
    if option.required:
        meaning += " Required."
    return f"| `{names.replace('|', chr(92) + '|')}` | {meaning} |\n"


def paragraphs(help: str) -> str:
    """
    @return: an explanation; what click is not to wrap is a block of its own.
    """
    parts = []
    for part in inspect.cleandoc(help).split("\n\n"):
        if part.startswith("\b\n"):
            parts.append(f"```text\n{part[2:]}\n```")
        else:
            text = marked(" ".join(part.split()))
            parts.append(
                textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
            )
    return "\n\n".join(parts)


def marked(help: str) -> str:
    """
    @return: an explanation with names of options as code.
    """
    return re.sub(r"(?<!\S)(--[a-z-]+[a-z])", r"`\1`", help.replace("|", r"\|"))


def anchor(heading: str) -> str:
    """
    @return: what a link to a heading names.
    """
    return heading.lower().replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page())
