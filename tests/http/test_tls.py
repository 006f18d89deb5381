"""
Tests for native TLS: files, versions, client certificates, reading the files again.
"""

from __future__ import annotations

import socket
import ssl
import warnings
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, LogLevel, capturedLogs

from nanomdm.errors import ConfigError
from nanomdm.http.tls import ServerTLS, TLSFiles, load_tls
from tests.http.tls_case import (
    HELLO,
    HOST,
    REFUSED,
    FilesCase,
    TLSCase,
    device,
    device_ca,
    now,
    other_ca,
    server,
    web_ca,
    who,
)


class LoadTests(FilesCase):
    """
    What the files may hold, and what is said when they do not.
    """

    def assertBad(self, message: str, files: TLSFiles) -> None:
        error = self.assertRaises(ConfigError, load_tls, files)
        self.assertEqual(str(error).replace(f"{self.directory}/", ""), message)

    def test_keyInTheSameFile(self) -> None:
        """
        In front of the certificate or behind the chain.
        """
        for contents in (
            (server(1).pem, server(1).key_pem),
            (server(1).key_pem, server(1).pem),
            (server(1).pem, web_ca().pem, server(1).key_pem),
        ):
            loaded = load_tls(TLSFiles(self.file("both.pem", *contents)))
            self.assertEqual(loaded.not_after, server(1).certificate.not_valid_after_utc)

    def test_keyElsewhere(self) -> None:
        certificate = self.file("cert.pem", server(1).pem)
        load_tls(TLSFiles(certificate, self.file("key.pem", server(1).key_pem)))

    def test_kindsOfKeys(self) -> None:
        elliptic = web_ca().issue_server(HOST, key=ec.generate_private_key(ec.SECP256R1()))
        for identity in (elliptic, server(1)):
            old = identity.key.private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            )
            load_tls(TLSFiles(self.file("both.pem", identity.pem, old)))

    def test_endOfTheChain(self) -> None:
        """
        What counts is which certificate of the chain ends first.
        """
        soon = now().replace(microsecond=0) + timedelta(days=3)
        middle = web_ca().intermediate("Middle CA", not_after=soon)
        identity = middle.issue_server(HOST)
        both = self.file("both.pem", identity.pem, middle.pem, identity.key_pem)
        self.assertEqual(load_tls(TLSFiles(both)).not_after, soon)

    def test_certificate(self) -> None:
        self.assertBad(
            "--tls-cert: absent.pem: No such file or directory",
            TLSFiles(self.directory / "absent.pem"),
        )
        empty = self.file("empty.pem", server(1).key_pem)
        self.assertBad("--tls-cert: empty.pem: no PEM certificate in it", TLSFiles(empty))

    def test_key(self) -> None:
        certificate = self.file("cert.pem", server(1).pem)
        self.assertBad("--tls-cert: cert.pem: no PEM private key in it", TLSFiles(certificate))
        for name, contents, problem in (
            ("cert.pem", server(1).pem, "no PEM private key in it"),
            ("encrypted.pem", self.encrypted(), "the private key is encrypted: decrypt it first"),
            ("old.pem", self.encrypted(old=True), "the private key is encrypted: decrypt it first"),
            ("cut.pem", self.cut(), "unreadable private key"),
            (
                "other.pem",
                server(2).key_pem,
                "the private key is not that of the first certificate",
            ),
        ):
            key = self.file(name, contents)
            self.assertBad(f"--tls-key: {name}: {problem}", TLSFiles(certificate, key))
        absent = TLSFiles(certificate, self.directory / "absent.pem")
        self.assertBad("--tls-key: absent.pem: No such file or directory", absent)

    def encrypted(self, old: bool = False) -> bytes:
        form = PrivateFormat.TraditionalOpenSSL if old else PrivateFormat.PKCS8
        return server(1).key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))

    def cut(self) -> bytes:
        lines = server(1).key_pem.splitlines(keepends=True)
        return b"".join(lines[:3] + lines[-1:])

    def test_uselessKey(self) -> None:
        """
        A key that can not sign.
        """
        key = x25519.X25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files = TLSFiles(self.file("cert.pem", server(1).pem), self.file("key.pem", pem))
        self.assertBad(
            "--tls-key: key.pem: the private key is not that of the first certificate", files
        )

    def test_weakKey(self) -> None:
        """
        A certificate that OpenSSL does not want to use.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = ec.generate_private_key(ec.SECP192R1())
        identity = web_ca().issue_server(HOST, key=key)
        both = self.file("both.pem", identity.pem, identity.key_pem)
        self.assertBad("--tls-cert: both.pem: ee key too small", TLSFiles(both))

    def test_chainBeforeTheCertificate(self) -> None:
        files = TLSFiles(self.file("both.pem", web_ca().pem, server(1).pem, server(1).key_pem))
        self.assertBad(
            "--tls-cert: both.pem: the private key is not that of the first certificate", files
        )

    def test_clientCA(self) -> None:
        both = self.file("both.pem", server(1).pem, server(1).key_pem)
        files = TLSFiles(both, client_ca=self.file("key.pem", server(1).key_pem))
        self.assertBad("--tls-client-ca: key.pem: no PEM certificate in it", files)


class VersionTests(TLSCase):
    """
    What is spoken.
    """

    async def assertVersions(self) -> None:
        """
        TLS 1.2 and 1.3, and nothing older.
        """
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = self.context()
            context.minimum_version = context.maximum_version = version
            client = await self.connect(context)
            self.assertEqual(client.tls.version(), version.name.replace("_", "."))
            self.assertEqual(await client.ask("/hello"), HELLO)
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            context = self.context()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                context.minimum_version = context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")
            failure = await self.assertFailure(
                Deferred.fromCoroutine(self.connect(context)), ssl.SSLError
            )
            self.assertIn("PROTOCOL_VERSION", str(failure))

    async def test_versions(self) -> None:
        await self.serve()
        await self.assertVersions()

    async def test_endpointString(self) -> None:
        """
        The same is true of C{--listen ssl:...}.
        """
        description = f"ssl:0:privateKey={self.certificate}:interface=127.0.0.1"
        await self.listen(serverFromString(reactor, description))
        await self.assertVersions()
        await self.assertProtocols()

    async def assertProtocols(self) -> None:
        for offered in (["http/1.1"], ["h2", "http/1.1"]):
            context = self.context()
            context.set_alpn_protocols(offered)
            client = await self.connect(context)
            self.assertEqual(client.tls.selected_alpn_protocol(), "http/1.1")

    async def test_protocols(self) -> None:
        await self.serve()
        await self.assertProtocols()

    async def test_noCommonProtocol(self) -> None:
        """
        Then the client is left to its fate.
        """
        await self.serve()
        context = self.context()
        context.set_alpn_protocols(["h2"])
        client = await self.connect(context)
        self.assertIsNone(client.tls.selected_alpn_protocol())

    async def test_forwardSecrecy(self) -> None:
        await self.serve()
        context = self.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES256-GCM-SHA384:AES128-SHA:DHE-RSA-AES256-GCM-SHA384")
        await self.assertFailure(Deferred.fromCoroutine(self.connect(context)), ssl.SSLError)

    async def test_serverChoosesCipher(self) -> None:
        await self.serve()
        context = self.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384")
        client = await self.connect(context)
        self.assertEqual((client.tls.cipher() or ())[0], "ECDHE-RSA-AES256-GCM-SHA384")

    async def test_chain(self) -> None:
        """
        The client needs the root only.
        """
        middle = web_ca().intermediate("Middle CA")
        identity = middle.issue_server(HOST)
        self.certificate.write_bytes(identity.pem + middle.pem + identity.key_pem)
        await self.serve()
        self.assertEqual(await self.ask("/hello"), HELLO)

    async def test_noRenegotiation(self) -> None:
        await self.serve()
        await deferToThread(self.renegotiate)

    def renegotiate(self) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        with socket.create_connection(("127.0.0.1", self.port), 30) as plain:
            plain.settimeout(None)
            client = SSL.Connection(context, plain)
            client.set_connect_state()
            client.do_handshake()
            client.renegotiate()
            error = self.assertRaises(SSL.Error, client.do_handshake)
            self.assertIn("no renegotiation", str(error))


class ClientCertificateTests(TLSCase):
    """
    Who the client is.
    """

    async def test_none(self) -> None:
        """
        That is for the resource to say.
        """
        await self.serve()
        self.assertEqual(await self.ask("/hello"), HELLO)
        with capturedLogs() as events:
            self.assertEqual(await self.ask("/who"), REFUSED)
        [line] = [event for event in events if event["log_format"] == "request"]
        self.assertEqual(line["error"], "no client certificate in the TLS session")

    async def test_trusted(self) -> None:
        await self.serve()
        self.assertEqual(await self.ask("/who", device()), who(device()))

    async def test_everyRequestOfAConnection(self) -> None:
        await self.serve()
        client = await self.connect(self.context(device()))
        for _ in range(3):
            self.assertEqual(await client.ask("/who"), who(device()))

    async def test_untrusted(self) -> None:
        """
        TLS takes any certificate; what it is worth is answered over HTTP.
        """
        await self.serve()
        past = now() - timedelta(days=1)
        for identity in (
            other_ca().issue(),
            device_ca().issue(not_before=past - timedelta(days=1), not_after=past),
            device_ca().issue(not_before=now() + timedelta(days=1)),
            device_ca().issue(client_auth=False),
        ):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = self.context(identity)
                context.minimum_version = context.maximum_version = version
                client = await self.connect(context)
                self.assertEqual(await client.ask("/who"), REFUSED)
                self.assertEqual(await client.ask("/hello"), HELLO)

    async def test_notAsked(self) -> None:
        """
        Without C{--tls-client-ca} nobody is asked for a certificate.
        """
        await self.serve(client_ca=False)
        self.assertEqual(await self.ask("/who", device()), REFUSED)

    async def test_namesOfAuthorities(self) -> None:
        """
        Clients are told which CAs' certificates are meant.
        """
        self.client_ca.write_bytes(device_ca().pem + other_ca().pem)
        await self.serve()
        names = await deferToThread(self.authorities)
        self.assertEqual(names, ["Device CA", "Other CA"])

    def authorities(self) -> list[str]:
        with socket.create_connection(("127.0.0.1", self.port), 30) as plain:
            plain.settimeout(None)
            client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), plain)
            client.set_connect_state()
            client.do_handshake()
            return [name.CN for name in client.get_client_ca_list()]

    async def test_resumed(self) -> None:
        """
        A resumed session still tells who the client is.
        """
        await self.serve()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = self.context(device())
            context.minimum_version = context.maximum_version = version
            first = await self.connect(context)
            self.assertEqual(await first.ask("/who"), who(device()))
            again = await self.connect(context, first.tls.session)
            self.assertTrue(again.tls.session_reused)
            self.assertEqual(await again.ask("/who"), who(device()))

    async def test_resumedAfterReload(self) -> None:
        """
        New files end old sessions.
        """
        await self.serve()
        context = self.context(device())
        first = await self.connect(context)
        self.assertEqual(await first.ask("/who"), who(device()))
        read = self.logged("TLS certificate read")
        self.reload()
        await read
        again = await self.connect(context, first.tls.session)
        self.assertFalse(again.tls.session_reused)
        self.assertEqual(await again.ask("/who"), who(device()))


class ReloadTests(TLSCase):
    """
    Reading the files again.
    """

    async def test_newConnections(self) -> None:
        """
        New connections get the new certificate, and old ones stay.
        """
        await self.serve()
        old = await self.connect()
        self.assertEqual(await old.ask("/hello"), HELLO)
        self.write(server(2))
        read = self.logged("TLS certificate read")
        self.reload()
        event = await read
        self.assertEqual(event["log_level"], LogLevel.info)
        end = server(2).certificate.not_valid_after_utc
        self.assertEqual(event["not_after"], end.strftime("%Y-%m-%dT%H:%M:%SZ"))
        new = await self.connect()
        self.assertEqual(new.server_certificate, server(2).der)
        self.assertEqual(await old.ask("/hello"), HELLO)
        self.assertEqual(old.server_certificate, server(1).der)

    async def test_badFiles(self) -> None:
        """
        The old certificate stays in use, and the log says what is wrong.
        """
        await self.serve()
        for contents, problem in (
            (server(2).pem + server(1).key_pem, "the private key is not that of the first"),
            (b"", "no PEM certificate in it"),
            (None, "No such file or directory"),
        ):
            self.certificate.unlink()
            if contents is not None:
                self.certificate.write_bytes(contents)
            failed = self.logged("TLS files not read again")
            self.reload()
            event = await failed
            self.assertEqual(event["log_level"], LogLevel.error)
            self.assertTrue(event["error"].startswith(f"--tls-cert: {self.certificate}: {problem}"))
            client = await self.connect()
            self.assertEqual(client.server_certificate, server(1).der)
            self.certificate.touch()

    async def test_clientCA(self) -> None:
        """
        It is read again as well.
        """
        await self.serve()
        self.client_ca.write_bytes(b"nothing")
        failed = self.logged("TLS files not read again")
        self.reload()
        self.assertIn("--tls-client-ca: ", (await failed)["error"])


class ExpiryTests(FilesCase):
    """
    The warning of a certificate that ends soon.
    """

    def start(self, days: float) -> list[LogEvent]:
        end = now() + timedelta(days=days)
        identity = web_ca().issue_server(HOST, not_after=end, key=server(1).key)
        both = self.file("both.pem", identity.pem, identity.key_pem)
        with capturedLogs() as events:
            ServerTLS(TLSFiles(both), now)
        return list(events)

    def test_soon(self) -> None:
        for days, whole in ((29.9, 29), (0.5, 0), (-0.01, -1)):
            read, warning = self.start(days)
            self.assertEqual(read["log_level"], LogLevel.info)
            self.assertEqual(warning["log_level"], LogLevel.warn)
            self.assertEqual((read["days"], warning["days"]), (whole, whole))

    def test_later(self) -> None:
        self.assertEqual([event["days"] for event in self.start(30.1)], [30])
