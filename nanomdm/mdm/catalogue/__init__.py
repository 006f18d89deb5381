"""
The commands that are known by name, with their keys, as Apple has published them.

Any other command works too; of these it is known what they look like.  A key is in
here only if Apple's schemas (C{mdm/commands} in the repository
C{apple/device-management}) have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nanomdm.mdm.catalogue.access import ACCESS
from nanomdm.mdm.catalogue.content import CONTENT
from nanomdm.mdm.catalogue.device import DEVICE
from nanomdm.mdm.catalogue.information import INFORMATION, QUERIES
from nanomdm.mdm.catalogue.keys import Care, Key, Kind, Known

__all__ = ["CATALOGUE", "QUERIES", "Care", "Key", "Kind", "Known", "care_of"]

#: By request type.
CATALOGUE: Final[Mapping[str, Known]] = {
    known.request_type: known
    for known in sorted(
        (*INFORMATION, *CONTENT, *DEVICE, *ACCESS), key=lambda known: known.request_type
    )
}


def care_of(request_type: str) -> Care:
    """
    @return: when to ask before a command is sent, known or not.
    """
    known = CATALOGUE.get(request_type)
    return Care.NEVER if known is None else known.care
