"""
Tells C{twistd} about the C{nanomdm} command.
"""

from twisted.application.service import ServiceMaker

nanomdm = ServiceMaker(
    name="nanomdm",
    module="nanomdm.tap",
    description="Apple MDM server",
    tapname="nanomdm",
)
