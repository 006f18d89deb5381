"""
What can go wrong, in the domain's words.

Nothing here knows about HTTP: L{nanomdm.http.endpoint} alone maps these to
status codes.
"""


class NanoMDMError(Exception):
    """
    Base of everything this package raises on purpose.  The text says what is
    wrong and never contains a secret.
    """


class ConfigError(NanoMDMError):
    """
    The server can not start as it was configured.  The text is one line that
    names the option and what is wrong with it.
    """


class MessageError(NanoMDMError):
    """
    A body is not the message that it should be: not a property list, a key
    missing, a value of the wrong type or too long.
    """


class IdentityError(NanoMDMError):
    """
    A request does not prove which certificate sent it.
    """


class BadSignature(IdentityError):
    """
    C{Mdm-Signature} can not be decoded or does not sign the body.
    """


class UntrustedCertificate(IdentityError):
    """
    A certificate is missing, outside its validity, or does not chain to a
    trusted root as a client certificate.
    """


class AssociationRefused(IdentityError):
    """
    A certificate may not speak for an enrollment id.
    """


class NotEnrolled(NanoMDMError):
    """
    A message needs an earlier C{Authenticate} that this server never saw.
    """


class Gone(NanoMDMError):
    """
    The server does not offer what the device asks for, and the device shall
    not ask again (C{UserAuthenticate}).
    """


class NotConfigured(NanoMDMError):
    """
    The request needs a part of the server that is not switched on.
    """


class OutboundError(NanoMDMError):
    """
    Another server could not be asked, or did not answer properly.  The text is one
    line that tells the host but no more of the URL.
    """


class NotFound(NanoMDMError):
    """
    Another server that answers in this one's place does not have what is asked for.

    @ivar body: what it says.
    """

    def __init__(self, message: str, body: bytes) -> None:
        super().__init__(message)
        self.body = body


class Unknown(NanoMDMError):
    """
    There is no enrollment, command or answer by this name.
    """


class AlreadyAnswered(NanoMDMError):
    """
    A command has a final answer, so nothing can be changed any more.
    """


class CommandConflict(NanoMDMError):
    """
    A command with the same UUID and other bytes exists already.
    """


class AlreadyEnrolled(NanoMDMError):
    """
    A migration brings a device that has enrolled at this server itself.
    """


class TooLarge(NanoMDMError):
    """
    A value does not fit into the storage; nothing of it was stored.
    """


class Overloaded(NanoMDMError):
    """
    A bounded queue is full.

    @ivar retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(NanoMDMError):
    """
    The storage did not do what it was asked; the transaction is rolled back.
    """


class StorageUnavailable(StorageError):
    """
    The database can not be reached or written at present: locked, full, gone.
    """


class LeaseLost(StorageError):
    """
    What a server had in hand is in the hands of another one, or done.  Nothing
    was changed.
    """


class SecretUnreadable(NanoMDMError):
    """
    A secret in the database can not be decrypted.  It is not lost: with the key that the
    text names it can be.
    """


class PushKeyUnreadable(SecretUnreadable):
    """
    The key of a push certificate can not be decrypted.

    @ivar certificate_pem: the certificate, which is not encrypted.
    """

    def __init__(self, message: str, certificate_pem: str) -> None:
        super().__init__(message)
        self.certificate_pem = certificate_pem


def internal(error: NanoMDMError) -> str:
    """
    @return: what clients are told of the server's own troubles, with no details.
    """
    return "storage unavailable" if isinstance(error, StorageUnavailable) else "internal error"
