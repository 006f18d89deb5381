"""
What of the secrets in a database is encrypted, and with which keys.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any, Final

from nanomdm.crypto.vault import Vault
from nanomdm.ctl.checks.finding import Findings, fail, ok, warn
from nanomdm.storage.engine import Engine
from nanomdm.storage.secretrows import MESSAGES, PLAIN, count_secrets
from nanomdm.storage.transaction import Transaction

#: What brings all secrets to the key that encrypts.
REWRITE: Final = "nanomdmctl secrets rewrite"


def check_secrets(engine: Engine, connection: Any, vault: Vault, rewrite: str) -> Findings:
    """
    @param vault: the server's.
    @param rewrite: L{REWRITE}, with the options that it needs here.
    """
    with closing(connection.cursor()) as cursor:
        counts = count_secrets(Transaction(cursor, engine.dialect))
    wanted = vault.current or PLAIN
    keys: Counter[str] = Counter()
    for (what, key), count in counts.items():
        if what != MESSAGES or wanted != PLAIN:
            keys[key] += count
    for key, count in sorted(keys.items()):
        if key != PLAIN and not vault.has(key):
            text = f"{count} are encrypted with key {key}, which the server does not have"
            yield fail("secrets", text, "Put it into --secret-key-file: devices get errors.")
        elif key != wanted:
            how = "not encrypted" if key == PLAIN else f"encrypted with the old key {key}"
            yield warn("secrets", f"{count} are {how}", rewrite)
    if not keys.keys() - {wanted}:
        encrypted = f"all {keys[wanted]} are encrypted with key {wanted}"
        yield ok("secrets", "nothing is encrypted" if wanted == PLAIN else encrypted)
