"""
Escrow key unlock: Apple takes the Activation Lock off a device for whoever knows its
bypass code and manages devices with its topic (Apple, "Creating and using bypass
codes").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

from attrs import field, frozen

from nanomdm.crypto.pushcert import PushCertificate, parse_stored_certificate
from nanomdm.errors import MessageError, NanoMDMError
from nanomdm.interfaces import IPushStore
from nanomdm.outbound import Fetched, OutboundClient
from nanomdm.tls import CertificateUnusable

TIMEOUT: Final = 30.0
"""
Seconds for the request to Apple.
"""

LIMIT: Final = 1 << 20
"""
Bytes of Apple's largest answer.
"""

#: What the URL tells of the device, and whether it must.
_QUERY: Final = {
    "serial": True,
    "productType": True,
    "imei": False,
    "imei2": False,
    "meid": False,
}

#: What the form holds.
_FORM: Final = ("orgName", "guid", "escrowKey")


class UnknownTopic(NanoMDMError):
    """
    There is no push certificate for a topic.
    """


@frozen
class Unlock:
    """
    What Apple is asked.

    @ivar topic: whose push certificate shows who asks.
    @ivar query: which device; in the URL.
    @ivar form: the bypass code, and who wants it; in the body.
    """

    topic: str
    query: Mapping[str, str] = field(repr=False)
    form: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Unlock:
        """
        @param fields: C{topic}, C{serial}, C{productType}, C{orgName}, C{guid} and
            C{escrowKey}, perhaps C{imei}, C{imei2} and C{meid}; others do not matter.
        @raise MessageError: one is missing or empty.
        """
        query = {name: fields.get(name, "") for name in _QUERY}
        form = {name: fields.get(name, "") for name in _FORM}
        topic = fields.get("topic", "")
        needed = {name: query[name] for name, must in _QUERY.items() if must}
        for name, value in {"topic": topic, **needed, **form}.items():
            if not value:
                raise MessageError(f"{name} is missing or empty")
        return cls(topic, {name: value for name, value in query.items() if value}, form)


class EscrowKeyUnlocker:
    """
    Asks Apple.

    @param store: where push certificates are.
    @param open_client: makes a client that shows a push certificate; raises
        L{CertificateUnusable} if it is of no use.
    @param url: Apple's.
    """

    def __init__(
        self,
        store: IPushStore,
        open_client: Callable[[PushCertificate], OutboundClient],
        url: str,
    ) -> None:
        self._store = store
        self._open_client = open_client
        self._url = url

    async def unlock(self, unlock: Unlock) -> Fetched:
        """
        @return: Apple's answer, whatever it is.
        @raise UnknownTopic: there is no push certificate.
        @raise CertificateUnusable: there is one that can not be used.
        @raise OutboundError: there is no answer.
        """
        client = self._open_client(await self._certificate(unlock.topic))
        try:
            return await client.fetch(
                "POST",
                f"{self._url}{'&' if '?' in self._url else '?'}{urlencode(unlock.query)}",
                {b"Content-Type": b"application/x-www-form-urlencoded"},
                urlencode(unlock.form).encode(),
                timeout=TIMEOUT,
                limit=LIMIT,
            )
        finally:
            await client.close()

    async def _certificate(self, topic: str) -> PushCertificate:
        stored = await self._store.push_certificate(topic)
        if stored is None:
            raise UnknownTopic("there is no push certificate for this topic")
        try:
            return parse_stored_certificate(topic, stored.certificate_pem, stored.key_pem)
        except MessageError as error:
            raise CertificateUnusable(str(error)) from None
