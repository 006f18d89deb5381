"""
The databases, and what they say of push certificates and of the webhook.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from nanomdm.crypto.pushcert import parse_stored_certificate
from nanomdm.crypto.vault import Vault
from nanomdm.ctl.checks.finding import Finding, Findings, fail, ok, validity, warn
from nanomdm.ctl.checks.secrets import REWRITE, check_secrets
from nanomdm.ctl.database import connect_to_read
from nanomdm.errors import ConfigError, MessageError, SecretUnreadable
from nanomdm.storage.engine import Engine
from nanomdm.storage.factory import engine_of
from nanomdm.storage.schema import pending
from nanomdm.storage.schema.changes import reason, rows, run
from nanomdm.storage.secrets import PUSH_KEY
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.transaction import Transaction
from nanomdm.storage.webhook_failed import backlog

#: The oldest versions that are supported; see docs/storage.md.
_OLDEST: Final = {"MySQL": (8, 0, 19), "MariaDB": (10, 6), "PostgreSQL": (13,)}

#: Seconds between the clocks of two machines that are a nuisance, and that are too many.
CLOCKS_WARN: Final = 5.0
CLOCKS_FAIL: Final = 300.0

#: Seconds for which an event may wait before something is wrong with its receiver.
_BACKLOG: Final = 300.0

#: Nothing is changed by these, but a database that can not be written to refuses them.
_WRITES: Final = (
    "INSERT INTO enrollment_queue (id, command_uuid)"
    " SELECT id, command_uuid FROM enrollment_queue WHERE 1 = 0",
    "UPDATE enrollment_queue SET priority = 0 WHERE 1 = 0",
    "DELETE FROM enrollment_queue WHERE 1 = 0",
)
_PUSH_CERTIFICATES: Final = "SELECT topic, cert_pem, key_pem FROM push_certs ORDER BY topic"
_TOPICS: Final = "SELECT DISTINCT topic FROM enrollments WHERE enabled ORDER BY topic"


def check_storage(
    storage: StorageSettings, webhook: bool, vault: Vault | None = None, rewrite: str = REWRITE
) -> Findings:
    """
    Look at one storage.

    @param webhook: whether there is a webhook.
    @param vault: the server's.
    @param rewrite: see L{check_secrets}.
    """
    if storage.kind == "inmem":
        yield warn("storage", "everything is lost when the server ends", "Only for trials.")
        return
    if isinstance(storage.dsn, Path) and not storage.dsn.exists():
        yield _missing_file(storage.dsn)
        return
    try:
        engine = engine_of(storage, storage.dsn)
        connection = _connect(storage)
    except ImportError as error:
        advice = f"pip install 'nanomdm-twisted[{storage.kind}]'"
        yield fail("storage", f"{storage.kind} needs a driver: {error}", advice)
        return
    except Exception as error:
        # Each driver has errors of its own.
        yield fail("storage", f"{storage.shown}: {reason(error)}", "Is --storage-dsn right?")
        return
    with closing(connection):
        held = vault or Vault()
        secrets = partial(check_secrets, engine, connection, held, rewrite)
        yield from _look_at(storage, engine, connection, webhook, held, secrets)


def _connect(storage: StorageSettings) -> Any:
    """
    @return: a connection to read with.  Where nobody has a SQLite file open, files
        beside it would be made only for this, and stay.
    """
    path = storage.dsn
    if isinstance(path, Path) and not Path(f"{path}-wal").exists():
        return sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, isolation_level=None)
    return connect_to_read(storage)


def _missing_file(path: Path) -> Finding:
    if not path.parent.is_dir():
        return fail("storage", f"{path.parent} does not exist", "Make the directory.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return fail("storage", f"{path} can not be made", f"Is {path.parent} the right place?")
    return warn("storage", f"{path} does not exist yet", "The server makes it at its start.")


def _look_at(
    storage: StorageSettings,
    engine: Engine,
    connection: Any,
    webhook: bool,
    vault: Vault,
    secrets: Callable[[], Findings],
) -> Findings:
    yield ok("storage", f"{storage.kind} {storage.shown} can be reached")
    try:
        yield _version(connection, storage.kind)
        lacking = pending(connection, storage.kind)
    except ConfigError as error:
        yield fail("schema", str(error), "Is that the right database?")
        return
    except Exception as error:
        yield fail("schema", reason(error), "May its user read all tables?")
        return
    if lacking:
        yield _lacks(storage, ", ".join(change.name for change in lacking))
        return
    yield ok("schema", "up to date")
    for check, look in (
        ("writable", lambda: _writable(storage, connection)),
        ("clock", lambda: _clock(engine, connection)),
        ("push certificates", lambda: _push_certificates(connection, vault)),
        ("secrets", secrets),
        ("webhook", lambda: _backlog(engine, connection, webhook)),
    ):
        yield from _guarded(check, look)


def _guarded(check: str, look: Callable[[], Findings]) -> Findings:
    try:
        yield from look()
    except Exception as error:
        yield fail(check, reason(error), "The database refused the question.")


def _lacks(storage: StorageSettings, names: str) -> Finding:
    if storage.options.auto_migrate:
        return warn("schema", f"it lacks: {names}", "The server adds that at its next start.")
    return fail("schema", f"it lacks: {names}", "nanomdmctl schema prints the statements to run.")


def _version(connection: Any, kind: str) -> Finding:
    if kind == "sqlite":
        return ok("version", f"SQLite {sqlite3.sqlite_version}")
    [(text,)] = rows(connection, "SELECT version()")
    product = "PostgreSQL" if kind == "pgsql" else "MySQL"
    if kind == "mysql" and "mariadb" in text.lower():
        product = "MariaDB"
    found = re.search(r"[0-9]+(?:\.[0-9]+)*", text)
    version = found[0] if found else ""
    oldest = _OLDEST[product]
    if tuple(int(part) for part in version.split(".") if part) < oldest:
        wanted = ".".join(map(str, oldest))
        return fail("version", f"{product} {version}", f"Needs {wanted} or newer.")
    return ok("version", f"{product} {version}")


def _writable(storage: StorageSettings, connection: Any) -> Findings:
    if isinstance(storage.dsn, Path):
        for path in (storage.dsn, storage.dsn.parent):
            if not os.access(path, os.W_OK):
                text = f"{path} can not be written to by who runs this"
                yield fail("writable", text, "Run the server, and this, as its owner.")
                return
    else:
        for statement in _WRITES:
            run(connection, statement)
    yield ok("writable", "yes")


def _clock(engine: Engine, connection: Any) -> Findings:
    if engine.kind == "sqlite":
        return
    before = time.time()
    [(there,)] = rows(connection, f"SELECT {engine.dialect.unix_now}")
    # Some databases tell whole seconds.
    apart = max(before - float(there) - 1, float(there) - time.time(), 0.0)
    yield clocks("the database", apart)


def clocks(whose: str, apart: float) -> Finding:
    """
    @param whose: the other clock.
    @param apart: seconds, at least.
    @return: how it is that two clocks differ.
    """
    text = f"the clock of {whose} and of this machine differ by {apart:.0f} s"
    advice = "Let both machines get their time by NTP."
    if apart > CLOCKS_FAIL:
        return fail("clock", text, advice)
    if apart > CLOCKS_WARN:
        return warn("clock", text, advice)
    return ok("clock", f"the clock of {whose} is right, as far as that of this machine is")


def _push_certificates(connection: Any, vault: Vault) -> Findings:
    check = "push certificates"
    stored = rows(connection, _PUSH_CERTIFICATES)
    for topic, certificate, key in stored:
        try:
            opened = PUSH_KEY.open(vault, key, topic)
            parsed = parse_stored_certificate(topic, certificate, opened)
        except SecretUnreadable as error:
            yield fail(check, str(error), "Put the key back, or upload the certificate again.")
        except MessageError as error:
            yield fail(check, f"{topic}: {error}", "Upload it again: nanomdmctl pushcert put")
        else:
            advice = "Renew it with the same Apple Account: nanomdmctl pushcert put"
            yield validity(check, topic, None, parsed.not_after, advice)
    if not stored:
        yield warn(check, "there is none", "Upload one: nanomdmctl pushcert put")
    known = {topic for topic, *_ in stored}
    for (topic,) in rows(connection, _TOPICS):
        if topic not in known:
            text = f"devices are enrolled with topic {topic}, and there is no certificate"
            yield fail(check, text, "They can not be pushed to: nanomdmctl pushcert put")


def _backlog(engine: Engine, connection: Any, webhook: bool) -> Findings:
    with closing(connection.cursor()) as cursor:
        [found] = backlog(Transaction(cursor, engine.dialect), [None])
    if found.failed:
        text = f"{found.failed} events were given up"
        yield warn("webhook", text, "nanomdmctl webhook shows them and sends them again.")
    if not webhook:
        return
    if found.oldest is not None and found.oldest > _BACKLOG:
        text = f"{found.waiting} events wait, the oldest for {found.oldest:.0f} s"
        yield warn("webhook", text, "Does the receiver answer? Does the server run?")
    else:
        yield ok("webhook", f"{found.waiting} events wait")
