"""
C{nanomdmctl doctor}: looks whether everything is as the server needs it.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from nanomdm.config import Given, from_environment, from_file, from_flags, resolve
from nanomdm.crypto.vault import Vault
from nanomdm.ctl.checks.certificates import check_authorities, check_other_trust, check_tls
from nanomdm.ctl.checks.database import check_storage
from nanomdm.ctl.checks.finding import Finding, Findings, Outcome, fail, ok
from nanomdm.ctl.checks.machine import (
    check_contents,
    check_disk,
    check_environment,
    check_files,
    check_limits,
)
from nanomdm.ctl.checks.network import check_apns, check_others, check_webhook
from nanomdm.ctl.checks.secrets import REWRITE
from nanomdm.ctl.checks.server import check_server
from nanomdm.ctl.options import client_to, json_option
from nanomdm.ctl.profile import Profile, profile_path, read_profile
from nanomdm.ctl.secretkeys import vault_of
from nanomdm.ctl.show import echo, print_json, readable
from nanomdm.errors import ConfigError
from nanomdm.options import OPTIONS, Option, Settings

#: Seconds until all checks must have ended; they go on at the same time.
DEADLINE: Final = 40.0

_COLOURS: Final = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


@frozen
class Check:
    """
    Something to look at.

    @ivar name: what it is.
    @ivar look: does it; blocks.
    """

    name: str
    look: Callable[[], Findings]


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options of C{twistd nanomdm}.
    """
    for option in reversed(OPTIONS):
        command = _option(option)(command)
    return command


def _option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    names = (f"--{option.name}", _parameter(option))
    if option.is_switch:
        return click.option(*names, is_flag=True, hidden=True, help=option.help)
    return click.option(*names, multiple=option.repeatable, hidden=True, help=option.help)


def _parameter(option: Option) -> str:
    return f"setting_{option.name.replace('-', '_')}"


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="NANOMDM_CONFIG",
    help="The server's configuration file; also from NANOMDM_CONFIG.",
)
@click.option(
    "--server",
    envvar="NANOMDM_SERVER",
    metavar="URL",
    help="A running server to look at too; also from NANOMDM_SERVER or ctl.toml.",
)
@click.option("--user", envvar="NANOMDM_USER", metavar="NAME", help="Name of the API key for that.")
@click.option("--key", envvar="NANOMDM_KEY", help="The API key for that. Better from NANOMDM_KEY.")
@click.option(
    "--server-ca",
    envvar="NANOMDM_SERVER_CA",
    metavar="FILE",
    help="PEM file of the root CAs that it must chain to.",
)
@click.option(
    "--profile", envvar="NANOMDM_PROFILE", metavar="NAME", help="Which profile of ctl.toml."
)
@json_option
@server_options
def doctor(
    config: Path | None,
    server: str | None,
    user: str | None,
    key: str | None,
    server_ca: str | None,
    profile: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """
    Look whether everything is as the server needs it, and say what to do if not.

    It takes every option of "twistd nanomdm", reads the same environment and
    configuration file, and looks at certificates, databases, and everybody whom the
    server talks to. It changes nothing, sends no event and pushes to no device. Run it
    where the server runs and as the same user.

    The exit status is 1 if something does not work.
    """
    own = read_profile(profile_path(), profile)
    given = own.with_given(server=server, user=user, key=key, ca=server_ca)
    findings, checks = _configuration(config, options)
    if not findings and given.server is None:
        raise click.UsageError("what is to be looked at? Give --config, or --server, or both")
    if given.server is not None:
        checks.append(_running(given.server, given))
    findings += _run(checks)
    _tell(findings, as_json)
    if any(finding.outcome is Outcome.FAIL for finding in findings):
        raise click.exceptions.Exit(1)


def _given(config: Path | None, options: dict[str, Any]) -> Iterator[Given]:
    """
    @return: what the server would be told, the weakest first.
    @raise ConfigError: the file can not be read or understood.
    """
    if config is not None:
        yield from from_file(str(config))
    yield from from_environment(os.environ)
    yield from from_flags(_flags(options))


def _flags(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for option in OPTIONS:
        value = options[_parameter(option)]
        if option.is_switch:
            if value:
                yield option.name, "1"
        elif option.repeatable:
            yield from ((option.name, one) for one in value)
        elif value is not None:
            yield option.name, value


def _configuration(
    config: Path | None, options: dict[str, Any]
) -> tuple[list[Finding], list[Check]]:
    """
    @return: what there is to say of the configuration itself, nothing if there is none,
        and what else there is to look at.
    """
    findings = list(check_environment(os.environ))
    try:
        given = list(_given(config, options))
        if not given and config is None:
            return [], []
        settings, _ = resolve(given)
    except ConfigError as error:
        return [*findings, fail("configuration", str(error), "The server does not start.")], []
    findings.append(ok("configuration", "the server understands it"))
    return findings, list(_checks(settings, config, _rewrite(config, options)))


def _rewrite(config: Path | None, options: dict[str, Any]) -> str:
    """
    @return: a command that works as it stands, unless flags said what it needs.
    """
    command = REWRITE if config is None else f"{REWRITE} --config {shlex.quote(str(config))}"
    names = ("storage", "storage-dsn", "secret-key-file", "secret-keys")
    given = [f"--{name}" for name, _ in _flags(options) if name in names]
    # What flags say may be a secret.
    return f"{command}, with the same {', '.join(dict.fromkeys(given))}" if given else command


def _checks(settings: Settings, config: Path | None, rewrite: str) -> Iterator[Check]:
    yield Check("ca", partial(check_authorities, settings))
    yield Check("trust", partial(check_other_trust, settings))
    yield Check("tls", partial(check_tls, settings))
    webhook = settings.webhook_url is not None
    vault = _vault(settings)
    for storage in settings.storages:
        yield Check("storage", partial(check_storage, storage, webhook, vault, rewrite))
    yield Check("apns", partial(check_apns, settings))
    yield Check("webhook", partial(check_webhook, settings))
    yield Check("others", partial(check_others, settings))
    yield Check("contents", partial(check_contents, settings))
    yield Check("files", partial(check_files, settings, config))
    yield Check("disk", partial(check_disk, settings))
    yield Check("open files", partial(check_limits, settings))


def _vault(settings: Settings) -> Vault:
    """
    @return: has no keys if they can not be read; another check tells of that.
    """
    try:
        return vault_of(settings)
    except ConfigError:
        return Vault()


def _running(server: str, given: Profile) -> Check:
    client = client_to(
        server,
        given.user,
        given.key or "",
        given.ca,
        ca_option="--server-ca",
        # How it is now is what counts.
        retry=False,
    )
    return Check("server", partial(check_server, client, given.key is not None))


def _run(checks: Sequence[Check]) -> list[Finding]:
    """
    Run all checks at once, each in a thread of its own; one that does not end in time
    ends with the process.

    @return: what they found, in the order of the checks.
    """
    runs = [_Running(check) for check in checks]
    deadline = time.monotonic() + DEADLINE
    return [finding for run in runs for finding in run.findings(deadline)]


class _Running:
    """
    A check that is under way.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            for finding in self._check.look():
                self._found.append(finding)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._found.append(fail(self._check.name, text, "Please report this."))

    def findings(self, deadline: float) -> list[Finding]:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            text = f"it was not over within {DEADLINE:g} s"
            found.append(fail(self._check.name, text, "Whatever it asks does not answer."))
        return found


def _tell(findings: Sequence[Finding], as_json: bool) -> None:
    counts = Counter(finding.outcome for finding in findings)
    if as_json:
        found = [
            {
                "check": one.check,
                "outcome": one.outcome.value,
                "text": one.text,
                **({"advice": one.advice} if one.advice else {}),
            }
            for one in findings
        ]
        print_json({"findings": found, **{one.value: counts[one] for one in Outcome}})
        return
    for one in findings:
        mark = click.style(f"{one.outcome.value:<4}", fg=_COLOURS[one.outcome])
        echo(f"{mark}  {one.check}: {readable(one.text)}")
        if one.advice:
            echo(f"      {readable(one.advice)}")
    echo(", ".join(f"{one.value}: {counts[one]}" for one in Outcome))
