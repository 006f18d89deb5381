"""
One server at a time changes the schema of a Galera cluster, whose nodes do not share
C{GET_LOCK}.  Changes from two nodes at once can make the whole cluster stand still, as
C{CREATE VIEW} does with MariaDB 10.11.

Who may is a row of nanomdm_leases.  It has the name of a node: of the servers of one
node, C{GET_LOCK} has chosen one already, so that a server which was killed keeps nobody
waiting there.  On other nodes its lease has to end first.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

from nanomdm.storage.schema.changes import rows

#: Seconds for which a lease is taken, anew before each statement.  One that takes longer
#: does no harm: nothing is committed anywhere in the meantime.
_SECONDS: Final = 60

#: Another node was faster (C{ER_LOCK_DEADLOCK}).
_CONFLICT: Final = 1213

#: The name that a node has as long as it runs.
_NODE: Final = "SHOW GLOBAL STATUS LIKE 'wsrep_gcomm_uuid'"
# Assigned from left to right.
_TAKE: Final = f"""
    INSERT INTO nanomdm_leases (name, holder, expires)
    VALUES ('schema', %s, UNIX_TIMESTAMP() + {_SECONDS})
    ON DUPLICATE KEY UPDATE
        holder = IF(expires <= UNIX_TIMESTAMP(), VALUES(holder), holder),
        expires = IF(holder = VALUES(holder), VALUES(expires), expires)
"""
_HOLDER: Final = "SELECT holder FROM nanomdm_leases WHERE name = 'schema'"
_END: Final = "UPDATE nanomdm_leases SET expires = 0 WHERE name = 'schema' AND holder = %s"


def node_of(connection: Any) -> str | None:
    """
    @return: the name of the node of a cluster that a connection leads to; L{None} if it
        leads to a server by itself.
    """
    found = rows(connection, _NODE)
    return found[0][1] if found else None


def take(connection: Any, node: str) -> bool:
    """
    Take the lease, or keep it.

    @return: whether the node has it.
    """
    try:
        _execute(connection, _TAKE, node)
    except connection.OperationalError as error:
        if error.args[0] != _CONFLICT:
            raise
    return rows(connection, _HOLDER) == [(node,)]


def end(connection: Any, node: str) -> None:
    """
    End the lease, if the node has it.
    """
    _execute(connection, _END, node)


def _execute(connection: Any, statement: str, node: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement, (node,))
