"""
The machine: files, disk, limits.
"""

from __future__ import annotations

import resource
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from nanomdm.config import unknown_variables
from nanomdm.crypto.secretkeys import read_secret_keys
from nanomdm.ctl.checks.finding import Finding, Findings, fail, ok, warn
from nanomdm.errors import ConfigError
from nanomdm.http.api.keys import read_api_keys
from nanomdm.openfiles import files_needed
from nanomdm.options import Settings
from nanomdm.service.tokens import read_token

_MIB: Final = 1 << 20

#: Bytes that are to be free on the disk of a database.
_LITTLE_SPACE: Final = 1024 * _MIB
_NO_SPACE: Final = 100 * _MIB


def check_environment(environ: Mapping[str, str]) -> Findings:
    """
    Look for variables that are meant for the server, and are none of its own.
    """
    for name in unknown_variables(environ):
        yield warn("environment", f"{name} belongs to no option", "Is it misspelled?")


def check_files(settings: Settings, config: Path | None) -> Findings:
    """
    See whether others can read or change what holds secrets.

    @param config: the configuration file, if there is one.
    """
    paths = [path for path in _secrets(settings, config) if path.exists()]
    keys = settings.secret_key_file
    findings = [finding for path in paths for finding in _permissions(path, path == keys)]
    yield from findings
    if paths and not findings:
        yield ok("files", f"nobody else can read or change {_listed(paths)}")


def check_contents(settings: Settings) -> Findings:
    """
    Read the files of keys and tokens, as the server does at its start.
    """
    if settings.api_key_file is not None:
        yield _content("api-key-file", partial(read_api_keys, settings.api_key_file))
    if settings.secret_key_file is not None:
        yield _content("secret-key-file", partial(read_secret_keys, settings.secret_key_file))
    for token in settings.token:
        yield _content("token", partial(read_token, token))


def _content(check: str, read: Callable[[], object]) -> Finding:
    try:
        read()
    except ConfigError as error:
        return fail(check, str(error), "The server does not start like this.")
    return ok(check, "can be used")


def _secrets(settings: Settings, config: Path | None) -> Iterator[Path]:
    if config is not None:
        yield config
    key = settings.tls_key or settings.tls_cert
    if key is not None:
        yield key
    if settings.api_key_file is not None:
        yield settings.api_key_file
    if settings.secret_key_file is not None:
        yield settings.secret_key_file
    for token in settings.token:
        yield token.path
    for storage in settings.storages:
        if isinstance(storage.dsn, Path):
            for suffix in ("", "-wal", "-shm"):
                yield Path(f"{storage.dsn}{suffix}")


def _permissions(path: Path, owner_only: bool) -> Iterator[Finding]:
    """
    @param owner_only: the group is not to read it either, as the server says itself.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield fail("files", f"{path}: {error.strerror}", "Whom does it belong to?")
        return
    if mode & stat.S_IWOTH:
        yield fail("files", f"anybody can change {path}", f"chmod o-rwx {path}")
    elif mode & stat.S_IROTH:
        yield warn("files", f"anybody can read {path}", f"chmod o-rwx {path}")
    elif owner_only and mode & stat.S_IRGRP:
        yield warn("files", f"its group can read {path}", f"chmod g-rwx {path}")


def _listed(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def check_disk(settings: Settings) -> Findings:
    """
    See whether there is room for SQLite databases to grow.
    """
    for storage in settings.storages:
        if not isinstance(storage.dsn, Path) or not storage.dsn.parent.is_dir():
            continue
        where = storage.dsn.parent
        free = shutil.disk_usage(where).free
        text = f"{free // _MIB} MiB are free for {where}"
        if free < _NO_SPACE:
            yield fail("disk", text, "The server soon can not write any more: make room.")
        elif free < _LITTLE_SPACE:
            yield warn("disk", text, "Make room.")
        else:
            yield ok("disk", text)


def check_limits(settings: Settings) -> Findings:
    """
    See how many files can be open, each connection being one.
    """
    # The server itself goes up to the hard limit.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_needed(settings.max_connections)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        text = f"what is started from here can have {limit} files open"
        most = settings.max_connections
        advice = f"The server is to serve up to {most} connections: ulimit -n {wanted}"
        yield warn("open files", text, f"{advice} (systemd: LimitNOFILE).")
    else:
        yield ok("open files", "enough")
