"""
The file with an operator's own settings: C{ctl.toml}.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

import click
from attrs import evolve, field, fields, frozen

#: What the file calls the table of profiles.
_PROFILES: Final = "profiles"


@frozen(kw_only=True)
class Profile:
    """
    How to reach a server; L{None} for what the file does not say.

    @ivar server: its URL.
    @ivar user: the name of the key.
    @ivar ca: the file with the root CAs that it must chain to.
    """

    server: str | None = None
    user: str | None = None
    key: str | None = field(default=None, repr=False)
    ca: str | None = None

    def with_given(self, **given: str | None) -> Profile:
        """
        @param given: what was said elsewhere, which counts more unless it is empty.
        @return: all of it.  If the server is another one, nothing of this: its key must
            not get there.
        """
        told = {name: value for name, value in given.items() if value}
        own = Profile() if told.get("server", self.server) != self.server else self
        return evolve(own, **told)


def profile_path() -> Path:
    """
    @return: where the file is to be, as the XDG Base Directory Specification has it.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "nanomdm" / "ctl.toml"


def read_profile(path: Path, name: str | None) -> Profile:
    """
    Read the file; without one nothing is set.

    @param name: which profile; it has nothing from outside its table, so that no key
        gets to another server.  L{None} for what is outside of all.
    @raise click.UsageError: it can not be read, holds what is unknown, or not the profile.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = tomllib.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        if name is not None:
            raise click.UsageError(f"--profile: there is no {path}") from None
        return Profile()
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from None
    profiles = content.pop(_PROFILES, {})
    if not isinstance(profiles, dict):
        raise click.UsageError(f"{path}: {_PROFILES}: is no table")
    # All of them, so that a mistake is not found years later.
    found = {None: _profile(content, str(path), path.parent)}
    for one, table in profiles.items():
        found[one] = _profile(table, f"{path}: {_PROFILES}.{one}", path.parent)
    if name not in found:
        known = ", ".join(sorted(profiles)) or "none"
        raise click.UsageError(f"--profile: {path} has no profile {name}, it has {known}")
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(one.key for one in found.values()):
        click.echo(f"Warning: {path}: others can read the key; chmod 600 it", err=True)
    return found[name]


def _profile(table: Any, where: str, directory: Path) -> Profile:
    if not isinstance(table, dict):
        raise click.UsageError(f"{where}: is no table")
    unknown = sorted(set(table) - {one.name for one in fields(Profile)})
    if unknown:
        raise click.UsageError(f"{where}: unknown: {', '.join(unknown)}")
    for name, value in table.items():
        if not isinstance(value, str) or not value:
            raise click.UsageError(f"{where}: {name}: is no text")
    if "ca" in table:
        table["ca"] = str(directory / Path(table["ca"]).expanduser())
    return Profile(**table)
