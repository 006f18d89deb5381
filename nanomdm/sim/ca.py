"""
A throwaway certification authority, and what it issues: device identities, push
certificates, server certificates.

For tests, demonstrations and load only: the CA's key lies unencrypted on disk,
and nobody is asked who wants a certificate.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nanomdm.private import PUBLIC, private_directory, replace

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_CA_DAYS = 3650
_BACKDATED = timedelta(hours=1)


@frozen
class DeviceIdentity:
    """
    A private key and the certificate that a CA issued for it.

    @ivar key: the private key.
    @ivar certificate: the certificate.
    """

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """
        The certificate's DER.
        """
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """
        The certificate as PEM.
        """
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """
        The private key as PEM, unencrypted PKCS #8.
        """
        return _key_pem(self.key)


@frozen
class ThrowawayCA:
    """
    A CA, root or intermediate, that signs with SHA-256.

    @ivar key: the CA's private key.
    @ivar certificate: the CA's own certificate.
    """

    key: PrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(
        cls,
        common_name: str = "Throwaway Device CA",
        *,
        key: PrivateKey | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> ThrowawayCA:
        """
        A new self-signed root.

        @param common_name: the subject's common name.
        @param key: the CA's key; a new RSA-2048 key by default.
        @param not_before: start of validity, an hour ago by default.
        @param not_after: end of validity, in ten years by default.
        """
        key = key or new_rsa_key()
        name = _name(common_name)
        builder = _ca_builder(name, key, *_validity(_CA_DAYS, not_before, not_after))
        return cls(key, builder.issuer_name(name).sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, certificate: Path, key: Path) -> ThrowawayCA:
        """
        A CA that exists.

        @param certificate: PEM of its certificate.
        @param key: PEM of its unencrypted private key.
        @raise OSError: a file can not be read.
        @raise ValueError: one holds no certificate or no key, or they do not belong
            together.
        """
        own, own_key = x509.load_pem_x509_certificate(certificate.read_bytes()), _load_key(key)
        if own.public_key() != own_key.public_key():
            raise ValueError(f"{key} is not the private key of {certificate}")
        return cls(own_key, own)

    @classmethod
    def load_or_create(cls, directory: Path) -> ThrowawayCA:
        """
        The CA kept in C{ca.pem} and C{ca.key} of a directory; both are made
        when C{ca.pem} is not there yet.

        The certificate is put in place last and in one step, so that an
        interrupted creation is simply done again.

        @param directory: where the files are; it is created when missing.
        @raise OSError: the files can not be read or written.
        @raise ValueError: the files hold no certificate or no key.
        """
        pem, key = directory / "ca.pem", directory / "ca.key"
        if pem.exists():
            return cls.load(pem, key)
        private_directory(directory)
        ca = cls.create()
        replace(key, _key_pem(ca.key))
        replace(pem, ca.pem, PUBLIC)
        return ca

    @property
    def pem(self) -> bytes:
        """
        The CA's certificate as PEM, as C{--ca} and C{--intermediate} read it.
        """
        return self.certificate.public_bytes(Encoding.PEM)

    def intermediate(
        self,
        name: str,
        *,
        key: PrivateKey | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> ThrowawayCA:
        """
        A new CA whose certificate this one signed.

        @param name: the new CA's common name.
        @param key: the new CA's key; a new RSA-2048 key by default.
        @param not_before: start of validity, an hour ago by default.
        @param not_after: end of validity, in ten years by default.
        """
        key = key or new_rsa_key()
        builder = _ca_builder(_name(name), key, *_validity(_CA_DAYS, not_before, not_after))
        return ThrowawayCA(key, self._sign(builder))

    def issue(
        self,
        common_name: str = "",
        *,
        key: PrivateKey | None = None,
        days: float = 365,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        client_auth: bool | None = True,
    ) -> DeviceIdentity:
        """
        A device identity of the shape SCEP servers hand to real devices: an
        empty subject, no alternative name, C{digitalSignature} and
        C{clientAuth}.

        @param common_name: the subject's common name; an empty subject when
            empty.
        @param key: the device's key; a new RSA-2048 key by default.
        @param days: length of validity in days from now, unless C{not_after}
            is given.
        @param not_before: start of validity, an hour ago by default.
        @param not_after: end of validity.
        @param client_auth: L{True} for an extended key usage of clientAuth,
            L{False} for one of serverAuth, L{None} for none.
        """
        usage = None
        if client_auth is not None:
            oids = ExtendedKeyUsageOID
            usage = oids.CLIENT_AUTH if client_auth else oids.SERVER_AUTH
        validity = _validity(days, not_before, not_after)
        return self._issue(_name(common_name), key, validity, usage)

    def issue_server(
        self,
        *hosts: str,
        key: PrivateKey | None = None,
        days: float = 365,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> DeviceIdentity:
        """
        A TLS server's certificate, with C{serverAuth}.

        @param hosts: the names and addresses that it is for, as subject
            alternative names.
        @param key: the server's key; a new RSA-2048 key by default.
        @param days: length of validity in days from now, unless C{not_after}
            is given.
        @param not_before: start of validity, an hour ago by default.
        @param not_after: end of validity.
        """
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        validity = _validity(days, not_before, not_after)
        return self._issue(_name(""), key, validity, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_push(
        self,
        topic: str,
        *,
        key: PrivateKey | None = None,
        days: float = 365,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> DeviceIdentity:
        """
        An MDM push certificate of the shape of Apple's: the subject's UID is
        the topic, the common name C{APSP:} and a UUID, with C{clientAuth}.

        @param topic: the push topic, C{com.apple.mgmt.External.} and a UUID.
        @param key: the certificate's key; a new RSA-2048 key by default.
        @param days: length of validity in days from now, unless C{not_after}
            is given.
        @param not_before: start of validity, an hour ago by default.
        @param not_after: end of validity.
        """
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.USER_ID, topic),
                x509.NameAttribute(NameOID.COMMON_NAME, f"APSP:{uuid5(NAMESPACE_DNS, topic)}"),
                x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            ]
        )
        validity = _validity(days, not_before, not_after)
        return self._issue(subject, key, validity, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self,
        subject: x509.Name,
        key: PrivateKey | None,
        validity: tuple[datetime, datetime],
        usage: x509.ObjectIdentifier | None,
        names: x509.SubjectAlternativeName | None = None,
    ) -> DeviceIdentity:
        key = key or new_rsa_key()
        builder = _builder(subject, key, *validity)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            # Nothing else says whose certificate it is (RFC 5280 section 4.2.1.6).
            builder = builder.add_extension(names, critical=not len(subject.rdns))
        return DeviceIdentity(key, self._sign(builder))

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
        builder = builder.issuer_name(self.certificate.subject)
        return builder.add_extension(authority, critical=False).sign(self.key, hashes.SHA256())


def new_rsa_key() -> rsa.RSAPrivateKey:
    """
    A new RSA-2048 key.  Making one costs tens of milliseconds and more, so
    tests and load share a few of them between many identities.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _name(common_name: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    return x509.Name(attributes)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _validity(
    days: float, not_before: datetime | None, not_after: datetime | None
) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return not_before or now - _BACKDATED, not_after or now + timedelta(days=days)


def _builder(
    name: x509.Name, key: PrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    public = key.public_key()
    builder = x509.CertificateBuilder(
        subject_name=name,
        public_key=public,
        serial_number=x509.random_serial_number(),
        not_valid_before=not_before,
        not_valid_after=not_after,
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _ca_builder(
    name: x509.Name, key: PrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    builder = _builder(name, key, not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.add_extension(_key_usage(sign_certificates=True), critical=True)


def _key_usage(digital_signature: bool = False, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> PrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if isinstance(key, PrivateKey):
        return key
    raise ValueError(f"{path} holds a key that is neither RSA nor EC")
