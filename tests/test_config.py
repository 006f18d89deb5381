"""
Tests for the configuration: every source, their precedence, every refusal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from io import StringIO
from pathlib import Path

from twisted.python.usage import Options as UsageOptions
from twisted.trial.unittest import SynchronousTestCase

from nanomdm import __version__
from nanomdm.config import Given, Options, Settings, resolve, unknown_variables
from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.errors import ConfigError
from nanomdm.http.proxies import PRIVATE, parse_networks
from nanomdm.options import OPTIONS
from nanomdm.push.address import APNsURL, ProxyURL
from nanomdm.service.tokens import TokenFile
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.storage.settings import StorageOptions, StorageSettings

EXAMPLE = Path(__file__).parent.parent / "etc" / "nanomdm.conf.example"


class ConfigTestCase(SynchronousTestCase):
    """
    Parses command lines.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca = self.write("ca.pem", "certificates")

    def write(self, name: str, content: str) -> str:
        path = self.directory / name
        path.write_text(content)
        return str(path)

    def ini(self, content: str) -> str:
        """
        @return: the path of an INI file with section [nanomdm].
        """
        return self.write("nanomdm.conf", f"[nanomdm]\n{content}\n")

    def parse(self, *flags: str, environ: Mapping[str, str] | None = None) -> Settings:
        options = Options(environ or {})
        options.parseOptions(flags)
        return options.settings

    def with_ca(self, *flags: str, environ: Mapping[str, str] | None = None) -> Settings:
        return self.parse("--ca", self.ca, *flags, environ=environ)

    def assertRefused(
        self, line: str, *flags: str, environ: Mapping[str, str] | None = None
    ) -> None:
        """
        The start ends with this line after "twistd nanomdm: ".  As the code of
        SystemExit, Python prints it and exits with 1.
        """
        ended = self.assertRaises(SystemExit, self.parse, *flags, environ=environ)
        self.assertEqual(ended.code, f"twistd nanomdm: {line}")


class DefaultsTests(ConfigTestCase):
    """
    What holds when nothing is said.
    """

    def test_defaults(self) -> None:
        self.assertEqual(
            self.with_ca(),
            Settings(
                listen=":9000",
                tls_cert=None,
                tls_key=None,
                tls_client_ca=None,
                api=None,
                disable_mdm=False,
                ca=Path(self.ca).absolute(),
                intermediate=None,
                cert_header=None,
                trusted_proxies=PRIVATE,
                checkin=False,
                retro=False,
                superseded_identity_grace=86400,
                expired_identity_grace=0,
                ua_zl_dc=False,
                dm=None,
                dm_send_hmac_key=None,
                dm_recv_hmac_key=None,
                token=(),
                token_url=None,
                auth_proxy_url=None,
                escrow_key_unlock_url="https://deviceservices-external.apple.com"
                "/deviceservicesworkers/escrowKeyUnlock",
                escrow_key_unlock_ca=None,
                storages=(
                    StorageSettings(
                        kind="sqlite",
                        dsn=Path("nanomdm.db").absolute(),
                        options=StorageOptions(),
                    ),
                ),
                apns_url=APNsURL("api.push.apple.com", 443),
                apns_ca=None,
                apns_proxy=None,
                apns_connections=2,
                push_expiration=7 * 86400,
                repush=1000,
                max_body_size=64 * 1024 * 1024,
                max_connections=10_000,
                log_format="logfmt",
                debug=False,
                dump=False,
            ),
        )

    def test_settings_have_the_same_defaults(self) -> None:
        self.assertEqual(Settings(ca=Path(self.ca).absolute()), self.with_ca())

    def test_every_flag(self) -> None:
        switches = [f"--{option.name}" for option in OPTIONS if option.is_switch]
        settings = self.parse(
            *switches,
            *("--listen", "127.0.0.1:80", "--api", "key", "--ca", self.ca),
            *("--intermediate", self.ca, "--cert-header", "X-Cert"),
            *("--trusted-proxies", "192.0.2.1", "--tls-cert", self.ca, "--tls-key", self.ca),
            *("--superseded-identity-grace", "7", "--expired-identity-grace", "8"),
            *("--dm", "https://dm/v1", "--dm-send-hmac-key", "s", "--dm-recv-hmac-key", "r"),
            *("--token", f"a={self.ca}", "--token", f"b={self.ca}", "--token-url", "http://t/?a"),
            *("--auth-proxy-url", "http://a/b", "--escrow-key-unlock-url", "https://e/?c"),
            *("--escrow-key-unlock-ca", self.ca),
            *("--storage", "sqlite", "--storage-dsn", "other.db", "--storage-options", "delete=1"),
            *("--apns-url", "https://localhost:2197", "--apns-ca", self.ca),
            *("--apns-proxy", "http://u:p@proxy:3128", "--apns-connections", "3"),
            *("--push-expiration", "1h", "--repush", "4"),
            *("--max-body-size", "9", "--max-connections", "10", "--log-format", "json"),
        )
        ca = Path(self.ca).absolute()
        self.assertEqual(
            settings,
            Settings(
                listen="127.0.0.1:80",
                tls_cert=ca,
                tls_key=ca,
                api="key",
                disable_mdm=True,
                ca=ca,
                intermediate=ca,
                cert_header="X-Cert",
                trusted_proxies=parse_networks("192.0.2.1/32"),
                checkin=True,
                retro=True,
                migration=True,
                superseded_identity_grace=7,
                expired_identity_grace=8,
                ua_zl_dc=True,
                dm="https://dm/v1/",
                dm_send_hmac_key="s",
                dm_recv_hmac_key="r",
                token=(TokenFile("a", ca), TokenFile("b", ca)),
                token_url="http://t/?a",
                auth_proxy_url="http://a/b/",
                escrow_key_unlock_url="https://e/?c",
                escrow_key_unlock_ca=ca,
                storages=(
                    StorageSettings(
                        kind="sqlite",
                        dsn=Path("other.db").absolute(),
                        options=StorageOptions(delete=True),
                    ),
                ),
                apns_url=APNsURL("localhost", 2197),
                apns_ca=ca,
                apns_proxy=ProxyURL("proxy", 3128, b"u:p"),
                apns_connections=3,
                push_expiration=3600,
                repush=4,
                max_body_size=9,
                max_connections=10,
                log_format="json",
                debug=True,
                dump=True,
            ),
        )

    def test_relative_paths_become_absolute(self) -> None:
        settings = self.with_ca("--storage-dsn", "a/b.db")
        self.assertEqual(settings.storages[0].dsn, Path(os.getcwd(), "a", "b.db"))

    def test_repr_hides_secrets(self) -> None:
        settings = self.with_ca(
            *("--api", "geheim", "--storage", "mysql", "--storage-dsn", "u:geheim@/db"),
            *("--storage-options", "replica_dsn=u:geheim@/db2"),
            *("--apns-proxy", "http://u:geheim@proxy", "--dm", "http://dm/geheim"),
            *("--dm-send-hmac-key", "geheim", "--dm-recv-hmac-key", "geheim"),
            *("--token-url", "http://t/geheim", "--auth-proxy-url", "http://a/geheim"),
        )
        self.assertNotIn("geheim", repr(settings))
        self.assertNotIn("geheim", repr(Given("api", "geheim", "--api")))

    def test_api_only(self) -> None:
        settings = self.parse("--disable-mdm", "--api", "key")
        self.assertEqual((settings.disable_mdm, settings.ca), (True, None))

    def test_device_options_are_unused_without_devices(self) -> None:
        settings = self.parse("--disable-mdm", "--api", "key", "--checkin", "--retro")
        self.assertTrue(settings.checkin and settings.retro)

    def test_migrationNeedsTheAPI(self) -> None:
        self.assertRefused(
            "--migration: needs --api or --api-key-file", "--ca", self.ca, "--migration"
        )
        self.assertTrue(self.with_ca("--migration", "--api", "key").migration)

    def test_webhook(self) -> None:
        url = ("--webhook-url", "http://127.0.0.1/?key=s3cret")
        settings = self.with_ca(*url)
        self.assertNotIn("s3cret", repr(settings))
        self.assertEqual((settings.webhook_concurrency, settings.webhook_max_age), (16, 259200))
        self.assertIs(settings.webhook_idle, True)
        self.assertIsNone(settings.webhook_hmac_key)
        settings = self.with_ca(
            *url,
            *("--webhook-concurrency=256", "--webhook-max-age=12h", "--webhook-idle=0"),
            *("--webhook-hmac-key", "s3cret", "--webhook-ca", self.ca),
        )
        self.assertNotIn("s3cret", repr(settings))
        self.assertEqual((settings.webhook_concurrency, settings.webhook_max_age), (256, 43200))
        self.assertIs(settings.webhook_idle, False)
        self.assertEqual(settings.webhook_ca, Path(self.ca).absolute())

    def test_webhookRefusals(self) -> None:
        needs_url = (
            *("--webhook-hmac-key=k", "--webhook-concurrency=1", "--webhook-max-age=1d"),
            *("--webhook-idle=0", f"--webhook-ca={self.ca}"),
        )
        for flag in needs_url:
            name = flag.partition("=")[0]
            self.assertRefused(f"{name}: needs --webhook-url", "--ca", self.ca, flag)
        for name, value, reason in (
            ("concurrency", "0", "'0' is not a number from 1 to 256"),
            ("concurrency", "257", "'257' is not a number from 1 to 256"),
            ("max-age", "366d", "'366d' is more than 365d"),
            ("idle", "2", "'2' is not 0 or 1"),
        ):
            option = f"--webhook-{name}"
            refused = (f"{option}: {reason}", "--ca", self.ca, "--webhook-url=http://a/")
            self.assertRefused(*refused, option, value)


class IdentityTests(ConfigTestCase):
    """
    Options about TLS and device identities.
    """

    def test_clientCertificates(self) -> None:
        ca = Path(self.ca).absolute()
        settings = self.with_ca("--tls-cert", self.ca, "--tls-client-ca", self.ca)
        self.assertEqual((settings.tls_cert, settings.tls_client_ca), (ca, ca))

    def test_needed(self) -> None:
        for name, value, other in (
            ("tls-key", self.ca, "tls-cert"),
            ("tls-client-ca", self.ca, "tls-cert"),
            (
                *("trusted-proxies", "10.0.0.0/8"),
                "cert-header, or --auth-proxy-url without --tls-client-ca",
            ),
        ):
            self.assertRefused(f"--{name}: needs --{other}", "--ca", self.ca, f"--{name}", value)
            file = self.ini(f"{name} = {value}")
            line = f"{file}: {name}: needs --{other}"
            self.assertRefused(line, "--ca", self.ca, "--config", file)

    def test_twoIdentities(self) -> None:
        flags = ("--ca", self.ca, "--tls-cert", self.ca, "--tls-client-ca", self.ca)
        line = "--tls-client-ca: excludes --cert-header"
        self.assertRefused(line, *flags, "--cert-header", "X-Cert")

    def test_secretKeys(self) -> None:
        """
        From one place, and never shown.
        """
        key = new_key()
        settings = self.with_ca("--secret-keys", key)
        self.assertEqual(settings.secret_keys, parse_secret_keys(key))
        self.assertNotIn(key, repr(settings))
        flags = ("--ca", self.ca, "--secret-keys", key, "--secret-key-file", self.ca)
        self.assertRefused("--secret-keys: excludes --secret-key-file", *flags)
        flags = ("--ca", self.ca, "--secret-keys", f"{key},{key[:-2]}")
        self.assertRefused("--secret-keys: key 2: is not base64", *flags)

    def test_tlsTwice(self) -> None:
        key = ThrowawayCA.create("Web CA").issue_server("localhost")
        listen = f"ssl:443:privateKey={self.write('s.pem', (key.pem + key.key_pem).decode())}"
        self.assertEqual(self.with_ca("--listen", listen).listen, listen)
        line = f"--tls-cert: --listen {listen} speaks TLS by itself"
        self.assertRefused(line, "--ca", self.ca, "--listen", listen, "--tls-cert", self.ca)

    def test_networks(self) -> None:
        line = "--trusted-proxies: 'here' does not appear to be an IPv4 or IPv6 network"
        self.assertRefused(line, "--cert-header", "X-Cert", "--trusted-proxies", "here")


class IntegrationTests(ConfigTestCase):
    """
    Options about servers that this one asks.
    """

    def test_keysNeedTheServer(self) -> None:
        for name in ("dm-send-hmac-key", "dm-recv-hmac-key"):
            self.assertRefused(f"--{name}: needs --dm", "--ca", self.ca, f"--{name}", "key")

    def test_urls(self) -> None:
        for name in ("dm", "token-url"):
            self.assertRefused(
                f"--{name}: holds a user name, which is not supported",
                *("--ca", self.ca, f"--{name}", "http://user:secret@host/"),
            )

    def test_severalTokens(self) -> None:
        """
        Where an option can be given once only.
        """
        ca = Path(self.ca).absolute()
        other = self.write("a,b.jwt", "token")
        expected = (
            TokenFile("com.apple.maid", ca),
            TokenFile("b", Path(other).absolute()),
            TokenFile("c", ca),
        )
        text = f"com.apple.maid={self.ca},b={other},c={self.ca}"
        for settings in (
            self.with_ca("--config", self.ini(f"token = {text}")),
            self.with_ca(environ={"NANOMDM_TOKEN": text}),
            self.with_ca("--token", text),
        ):
            self.assertEqual(settings.token, expected)

    def test_tokensOfTheStrongestSource(self) -> None:
        settings = self.with_ca(
            *("--token", f"a={self.ca}"), environ={"NANOMDM_TOKEN": f"b={self.ca}"}
        )
        self.assertEqual(settings.token, (TokenFile("a", Path(self.ca).absolute()),))

    def test_badTokens(self) -> None:
        for text in ("", "a", "a=", "=x", "ä=x", "a b=x"):
            self.assertRefused(
                f"--token: {text!r} is not TYPE=FILE", "--ca", self.ca, "--token", text
            )
        self.assertRefused(
            "--token: '/nowhere' can not be read: No such file or directory",
            *("--ca", self.ca, "--token", f"a={self.ca}", "--token", "b=/nowhere"),
        )
        for flags in (
            ("--token", f"a={self.ca},a={self.ca}"),
            ("--token", f"a={self.ca}", "--token", f"a={self.ca}"),
        ):
            self.assertRefused("--token: names one type twice", "--ca", self.ca, *flags)


class PrecedenceTests(ConfigTestCase):
    """
    Flag beats environment beats file beats default, for each kind of value.
    """

    def assertPrecedence(
        self, name: str, default: object, values: tuple[tuple[str, object], ...]
    ) -> None:
        """
        @param values: text and what it means, of the flag, the environment and
            the file, each different from its neighbours.
        """
        attribute = name.replace("-", "_")
        (flag, from_flag), (variable, from_environ), (line, from_file) = values
        environ = {f"NANOMDM_{attribute.upper()}": variable}
        file = ("--config", self.ini(f"{name} = {line}"))
        flags = (f"--{name}", flag) if flag else (f"--{name}",)
        for expected, settings in (
            (default, self.with_ca()),
            (from_file, self.with_ca(*file)),
            (from_environ, self.with_ca(environ=environ)),
            (from_environ, self.with_ca(*file, environ=environ)),
            (from_flag, self.with_ca(*file, *flags)),
            (from_flag, self.with_ca(*file, *flags, environ=environ)),
        ):
            self.assertEqual(getattr(settings, attribute), expected)

    def test_text(self) -> None:
        self.assertPrecedence(
            "cert-header", None, (("A-Flag", "A-Flag"), ("An-Env", "An-Env"), ("A-File", "A-File"))
        )

    def test_secret(self) -> None:
        self.assertPrecedence("api", None, (("k1", "k1"), ("k%2", "k%2"), ("k;#3", "k;#3")))

    def test_integer(self) -> None:
        self.assertPrecedence("max-body-size", 67108864, (("1", 1), ("2", 2), ("3", 3)))

    def test_path(self) -> None:
        flag, environ, file = (self.write(name, "") for name in ("flag", "environ", "file"))
        self.assertPrecedence(
            "intermediate",
            None,
            (
                (flag, Path(flag).absolute()),
                (environ, Path(environ).absolute()),
                (file, Path(file).absolute()),
            ),
        )

    def test_choice(self) -> None:
        self.assertPrecedence(
            "log-format", "logfmt", (("logfmt", "logfmt"), ("json", "json"), ("logfmt", "logfmt"))
        )

    def test_duration(self) -> None:
        self.assertPrecedence(
            "push-expiration", 604800, (("0", 0), ("1500ms", 2), ("1d12h", 129600))
        )

    def test_proxy(self) -> None:
        self.assertPrecedence(
            "apns-proxy",
            None,
            (
                ("http://u:p%40@[::1]:1", ProxyURL("::1", 1, b"u:p@")),
                ("none", "none"),
                ("http://h", ProxyURL("h", 80)),
            ),
        )

    def test_boolean(self) -> None:
        self.assertPrecedence("retro", False, (("", True), ("0", False), ("yes", True)))

    def test_environment_turns_on_what_the_file_turns_off(self) -> None:
        file = self.ini("retro = off")
        settings = self.with_ca("--config", file, environ={"NANOMDM_RETRO": "on"})
        self.assertTrue(settings.retro)

    def test_every_way_to_write_a_boolean(self) -> None:
        for words, expected in (
            (("1", "true", "yes", "on", "TRUE", "On"), True),
            (("0", "false", "no", "off", "FALSE", "No"), False),
        ):
            for word in words:
                with_file = self.with_ca("--config", self.ini(f"debug = {word}"))
                with_environ = self.with_ca(environ={"NANOMDM_DEBUG": word})
                self.assertEqual((with_file.debug, with_environ.debug), (expected, expected))

    def test_every_option_has_a_variable(self) -> None:
        """
        A value that no option takes is noticed from each one's variable.
        """
        for option in OPTIONS:
            name = "NANOMDM_" + option.name.upper().replace("-", "_")
            self.assertRefused(f"{name}: must not be empty", environ={name: " "})

    def test_file_from_the_environment(self) -> None:
        environ = {"NANOMDM_CONFIG": self.ini("max-body-size = 5")}
        self.assertEqual(self.with_ca(environ=environ).max_body_size, 5)

    def test_flag_names_another_file_than_the_environment(self) -> None:
        other = self.write("other.conf", "[nanomdm]\nmax-body-size = 6\n")
        environ = {"NANOMDM_CONFIG": self.ini("max-body-size = 5")}
        settings = self.with_ca("--config", other, environ=environ)
        self.assertEqual(settings.max_body_size, 6)

    def test_foreign_variables_are_not_looked_at(self) -> None:
        environ = {"NANOMDM_PORT": "tcp://10.0.0.1:80", "NANOMDM_VERSION": "3", "NANOMDM_": ""}
        self.assertEqual(self.with_ca(environ=environ), self.with_ca())

    def test_origins(self) -> None:
        options = Options({"NANOMDM_RETRO": "0"})
        file = self.ini("debug = 1\nretro = 1")
        options.parseOptions(["--ca", self.ca, "--config", file])
        self.assertEqual(
            options.origins,
            {"ca": "--ca", "retro": "NANOMDM_RETRO", "debug": f"{file}: debug"},
        )


class StorageTests(ConfigTestCase):
    """
    Storages, each of which three options describe.
    """

    def storages(
        self, *flags: str, environ: Mapping[str, str] | None = None
    ) -> list[tuple[str, object, StorageOptions]]:
        settings = self.with_ca(*flags, environ=environ)
        return [(one.kind, one.dsn, one.options) for one in settings.storages]

    def test_each_source(self) -> None:
        dsn, options = "mysql://u:a%2Cb;%23c@h/db", "pool_size=7,delete=1"
        expected = [("mysql", dsn, StorageOptions(pool_size=7, delete=True))]
        flags = ("--storage", "mysql", "--storage-dsn", dsn, "--storage-options", options)
        environ = {
            "NANOMDM_STORAGE": "mysql",
            "NANOMDM_STORAGE_DSN": dsn,
            "NANOMDM_STORAGE_OPTIONS": options,
        }
        file = self.ini(f"storage = mysql\nstorage-dsn = {dsn}\nstorage-options = {options}")
        self.assertEqual(self.storages(*flags), expected)
        self.assertEqual(self.storages(environ=environ), expected)
        self.assertEqual(self.storages("--config", file), expected)

    def test_each_option_from_another_source(self) -> None:
        """
        The kind in the file, the DSN with its password in the environment.
        """
        file = self.ini("storage = pgsql\nstorage-dsn = postgres://file/db")
        environ = {"NANOMDM_STORAGE_DSN": "postgres://u:p@h/db"}
        flags = ("--config", file, "--storage-options", "auto_migrate=0")
        self.assertEqual(
            self.storages(*flags, environ=environ),
            [("pgsql", "postgres://u:p@h/db", StorageOptions(auto_migrate=False))],
        )

    def test_flags_beat_environment_beats_file(self) -> None:
        file = ("--config", self.ini("storage-dsn = /file.db\nstorage-options = retention=1h"))
        environ = {"NANOMDM_STORAGE_DSN": "/e.db", "NANOMDM_STORAGE_OPTIONS": "retention=2h"}
        flags = ("--storage-dsn", "/flag.db", "--storage-options", "retention=3h")
        for expected, hours, storages in (
            ("/file.db", 1, self.storages(*file)),
            ("/e.db", 2, self.storages(*file, environ=environ)),
            ("/flag.db", 3, self.storages(*file, *flags, environ=environ)),
        ):
            options = StorageOptions(retention=3600 * hours)
            self.assertEqual(storages, [("sqlite", Path(expected), options)])

    def test_memory(self) -> None:
        expected = [("inmem", None, StorageOptions())]
        self.assertEqual(self.storages("--storage", "inmem"), expected)
        self.assertEqual(self.storages("--storage", "inmem", "--storage-dsn", ""), expected)

    def test_several(self) -> None:
        """
        Sets are put together by their order, wherever the flags stand.
        """
        flags = (
            *("--storage", "pgsql", "--storage", "inmem", "--storage", "sqlite"),
            *("--storage-options", "pool_size=3", "--storage-options", ""),
            *("--storage-options", "delete=1"),
            *("--storage-dsn", "host=h dbname=d", "--storage-dsn", "", "--storage-dsn", "x.db"),
        )
        self.assertEqual(
            self.storages(*flags),
            [
                ("pgsql", "host=h dbname=d", StorageOptions(pool_size=3)),
                ("inmem", None, StorageOptions()),
                ("sqlite", Path("x.db").absolute(), StorageOptions(delete=True)),
            ],
        )

    def test_several_with_options_left_out(self) -> None:
        flags = ("--storage=sqlite", "--storage-dsn=/a", "--storage=sqlite", "--storage-dsn=/b")
        self.assertEqual(
            self.storages(*flags),
            [("sqlite", Path("/a"), StorageOptions()), ("sqlite", Path("/b"), StorageOptions())],
        )

    def test_flags_replace_the_set_of_the_environment(self) -> None:
        flags = ("--storage=inmem", "--storage=inmem", "--storage-dsn=", "--storage-dsn=")
        environ = {"NANOMDM_STORAGE": "sqlite", "NANOMDM_STORAGE_DSN": "x.db"}
        expected = ("inmem", None, StorageOptions())
        self.assertEqual(self.storages(*flags, environ=environ), [expected, expected])

    def test_unequal_counts(self) -> None:
        line = "storages come in sets, but there are "
        two = ("--storage", "inmem", "--storage", "sqlite")
        self.assertRefused(
            line + "2 of --storage, 0 of --storage-dsn, 0 of --storage-options", *two
        )
        self.assertRefused(
            line + "0 of --storage, 2 of --storage-dsn, 0 of --storage-options",
            *("--storage-dsn", "a", "--storage-dsn", "b"),
        )
        self.assertRefused(
            line + "2 of --storage, 2 of --storage-dsn, 1 of NANOMDM_STORAGE_OPTIONS",
            *(*two, "--storage-dsn", "", "--storage-dsn", "b"),
            environ={"NANOMDM_STORAGE_OPTIONS": "delete=1"},
        )

    def test_same_database_twice(self) -> None:
        self.assertRefused(
            "--storage-dsn: names one database twice",
            *("--storage", "sqlite", "--storage-dsn", "x.db"),
            *("--storage", "sqlite", "--storage-dsn", "./x.db"),
        )

    def test_missing_dsn(self) -> None:
        for kind in ("mysql", "pgsql"):
            line = f"--storage-dsn: required with storage {kind}"
            self.assertRefused(line, "--storage", kind)
            self.assertRefused(line, "--storage", kind, "--storage-dsn", "")
        self.assertRefused("--storage-dsn: must not be empty", "--storage-dsn", "")

    def test_memory_has_no_dsn(self) -> None:
        inmem = ("--storage", "inmem")
        problem = "storage inmem has no DSN"
        file = self.ini("storage-dsn = x.db")
        self.assertRefused(f"--storage-dsn: {problem}", *inmem, "--storage-dsn", "x.db")
        self.assertRefused(
            f"NANOMDM_STORAGE_DSN: {problem}", *inmem, environ={"NANOMDM_STORAGE_DSN": "x.db"}
        )
        self.assertRefused(f"{file}: storage-dsn: {problem}", *inmem, "--config", file)

    def test_bad_value_of_one_among_several(self) -> None:
        sets = ("--storage=inmem", "--storage-dsn=", "--storage=mysql", "--storage-dsn=u@/")
        self.assertRefused("--storage-dsn (storage 2): database: missing", *sets)
        options = ("--storage-options=pool_size=1", "--storage-options=")
        self.assertRefused(
            "--storage-options (storage 1): pool_size: storage inmem does not have this option",
            *(*sets[:3], "--storage-dsn=u@/db", *options),
        )

    def test_dsn_of_another_kind(self) -> None:
        """
        It would become a file with a password in its name.
        """
        for dsn in ("mysql://u:sesam@h/db", "u:sesam@/db", "host=h password=sesam"):
            self.assertRefused(
                "--storage-dsn: is not the path of a file but the address of another kind "
                "of database",
                *("--storage-dsn", dsn),
            )

    def test_dsn_that_is_not_text(self) -> None:
        environ = {"NANOMDM_STORAGE_DSN": "u:p\udcff@/db", "NANOMDM_STORAGE": "mysql"}
        self.assertRefused("NANOMDM_STORAGE_DSN: is not UTF-8", environ=environ)


class BadValueTests(ConfigTestCase):
    """
    A bad value ends the start wherever it stands.
    """

    BAD = (
        ("listen", "9000x", "'9000x' is neither an address with a port nor an endpoint: "),
        ("cert-header", "X Cert", "'X Cert' is not the name of an HTTP header"),
        ("superseded-identity-grace", "-1", "'-1' is not a number from 0 to 3153600000"),
        ("superseded-identity-grace", "1_0", "'1_0' is not a number from 0 to 3153600000"),
        ("expired-identity-grace", "1.5", "'1.5' is not a number from 0 to 36500"),
        ("expired-identity-grace", "36501", "'36501' is not a number from 0 to 36500"),
        ("max-body-size", "0", "'0' is not a number from 1 to 2147483647"),
        ("max-body-size", "64M", "'64M' is not a number from 1 to 2147483647"),
        ("storage", "oracle", "'oracle' is not sqlite, inmem, mysql or pgsql"),
        ("storage", "SQLite", "'SQLite' is not sqlite, inmem, mysql or pgsql"),
        ("storage-dsn", ":memory:", "':memory:' is not the path of a file"),
        ("storage-dsn", "file:x.db", "'file:x.db' is not the path of a file"),
        ("storage-dsn", "u:p@tcp(h)/db", "is not the path of a file but the address of another"),
        ("storage-options", "foo=1", "foo: no such storage option"),
        ("storage-options", "delete=yes", "delete: 'yes' is not 0 or 1"),
        ("storage-options", "pool_size=5", "pool_size: storage sqlite does not have this option"),
        ("apns-url", "http://h", "is not https://host or https://host:port"),
        ("apns-ca", "/nowhere", "'/nowhere' can not be read: No such file or directory"),
        ("apns-proxy", "socks5://h", "is not http://[user:password@]host[:port]"),
        ("apns-connections", "0", "'0' is not a number from 1 to 100"),
        ("apns-connections", "101", "'101' is not a number from 1 to 100"),
        ("push-expiration", "7", "'7' is not a duration such as 30s, 3m or 1h30m"),
        ("push-expiration", "31d", "'31d' is more than 30d"),
        ("repush", "-1", "'-1' is not a number from 0 to 6000"),
        ("repush", "6001", "'6001' is not a number from 0 to 6000"),
        ("log-format", "xml", "'xml' is not logfmt or json"),
        ("ca", "/nowhere", "'/nowhere' can not be read: No such file or directory"),
        ("intermediate", "/", "'/' can not be read: Is a directory"),
    )

    def assertNamed(self, origin: str, problem: str, ended: SystemExit) -> None:
        line = str(ended.code)
        expected = f"twistd nanomdm: {origin}: {problem}"
        self.assertEqual(line[: len(expected)], expected)
        self.assertNotIn("\n", line)

    def test_flag(self) -> None:
        for name, value, problem in self.BAD:
            ended = self.assertRaises(SystemExit, self.parse, f"--{name}={value}")
            self.assertNamed(f"--{name}", problem, ended)

    def test_environment(self) -> None:
        for name, value, problem in self.BAD:
            variable = "NANOMDM_" + name.upper().replace("-", "_")
            ended = self.assertRaises(SystemExit, self.parse, environ={variable: value})
            self.assertNamed(variable, problem, ended)

    def test_file(self) -> None:
        for name, value, problem in self.BAD:
            file = self.ini(f"{name} = {value}")
            ended = self.assertRaises(SystemExit, self.parse, "--config", file)
            self.assertNamed(f"{file}: {name}", problem, ended)

    def test_boolean(self) -> None:
        problem = "'2' is none of 1, true, yes, on, 0, false, no, off"
        self.assertRefused(f"NANOMDM_DEBUG: {problem}", environ={"NANOMDM_DEBUG": "2"})
        file = self.ini("debug = 2")
        self.assertRefused(f"{file}: debug: {problem}", "--config", file)

    def test_bad_value_that_a_flag_overrules(self) -> None:
        self.assertRefused(
            "NANOMDM_STORAGE: 'x' is not sqlite, inmem, mysql or pgsql",
            "--storage",
            "sqlite",
            environ={"NANOMDM_STORAGE": "x"},
        )

    def test_empty(self) -> None:
        """
        An empty API key is no way to say that there is none.
        """
        file = self.ini("api =")
        self.assertRefused("--api: must not be empty", "--api", "")
        self.assertRefused("NANOMDM_API: must not be empty", environ={"NANOMDM_API": ""})
        self.assertRefused(f"{file}: api: must not be empty", "--config", file)
        self.assertRefused("--config: must not be empty", "--config", "")
        self.assertRefused("NANOMDM_CONFIG: must not be empty", environ={"NANOMDM_CONFIG": ""})

    def test_key_that_is_not_text(self) -> None:
        self.assertRefused("NANOMDM_API: is not UTF-8", environ={"NANOMDM_API": "k\udcff"})
        self.assertRefused("--api: holds a control character", "--api", "k\n2")

    def test_passwordOfTheProxy(self) -> None:
        """
        It is not told, whatever is wrong with the URL.
        """
        form = "is not http://[user:password@]host[:port]"
        for url in ("http://u:geheim@", "u:geheim@proxy", "http://u:geheim@proxy:x"):
            self.assertRefused(f"--apns-proxy: {form}", "--apns-proxy", url)

    def test_one_line_whatever_the_value(self) -> None:
        self.assertRefused("--log-format: 'a\\nb' is not logfmt or json", "--log-format", "a\nb")
        self.assertRefused(
            "/no\\nwhere: can not be read: No such file or directory", "--config", "/no\nwhere"
        )


class CommandLineTests(ConfigTestCase):
    """
    Command lines that are wrong as a whole, and what only they can say.
    """

    HINT = "; see twistd nanomdm --help"

    def test_unknown_flag(self) -> None:
        self.assertRefused(f"option --foo not recognized{self.HINT}", "--foo=secret")

    def test_missing_value(self) -> None:
        self.assertRefused(f"option --api requires argument{self.HINT}", "--api")

    def test_value_of_a_switch(self) -> None:
        line = f"option --debug must not have an argument{self.HINT}"
        self.assertRefused(line, "--debug=1")

    def test_words(self) -> None:
        line = f"takes options only, but other words follow{self.HINT}"
        self.assertRefused(line, "--api", "two", "words")

    def test_repeated(self) -> None:
        line = f"--api: given more than once{self.HINT}"
        self.assertRefused(line, "--api", "a", "--api", "a")
        self.assertRefused(f"--debug: given more than once{self.HINT}", "--debug", "--debug")
        self.assertRefused(f"--config: given more than once{self.HINT}", "--config=a", "--config=b")

    def test_no_ca(self) -> None:
        self.assertRefused("--ca: required unless --disable-mdm is given")
        self.assertRefused("--ca: required unless --disable-mdm is given", "--api", "key")

    def test_nothing_to_do(self) -> None:
        line = "nothing for server to do: --disable-mdm without --api"
        self.assertRefused(line, "--disable-mdm")
        self.assertRefused(line, "--disable-mdm", "--ca", self.ca)

    def test_resolve_raises_the_domains_error(self) -> None:
        error = self.assertRaises(ConfigError, resolve, [])
        self.assertEqual(str(error), "--ca: required unless --disable-mdm is given")

    def test_version(self) -> None:
        output = self.capture("--version")
        self.assertEqual(output, f"nanomdm {__version__}\n")

    def test_help(self) -> None:
        self.patch(os, "environ", {**os.environ, "COLUMNS": "400"})
        lines = self.capture("--help").splitlines()
        for option in OPTIONS:
            flag = f"--{option.name}" + ("" if option.is_switch else "=")
            shown = next(line for line in lines if line.split()[:1] == [flag])
            default = "" if option.default is None else f" [default: {option.default}]"
            self.assertTrue(shown.endswith(f"{option.help}{default}"), shown)

    def capture(self, flag: str) -> str:
        """
        @return: what the flag prints before the process ends well.
        """
        self.patch(sys, "stdout", output := StringIO())
        ended = self.assertRaises(SystemExit, self.parse, flag)
        self.assertEqual(ended.code, 0)
        return output.getvalue()


class UnknownVariableTests(SynchronousTestCase):
    """
    Environment variables that look like options.
    """

    def test_mistyped(self) -> None:
        environ = {"NANOMDM_LISTN": "x", "NANOMDM_API": "k", "NANOMDM_CONFIG": "f", "PATH": "p"}
        self.assertEqual(unknown_variables(environ), ["NANOMDM_LISTN"])

    def test_injectedByOrchestrators(self) -> None:
        names = (
            "NANOMDM_SERVER",
            "NANOMDM_KEY",
            "NANOMDM_SERVICE_HOST",
            "NANOMDM_PORT",
            "NANOMDM_PORT_9000_TCP",
            "NANOMDM_NAME",
        )
        self.assertEqual(unknown_variables(dict.fromkeys(names, "x")), [])


class FileTests(ConfigTestCase):
    """
    INI files.
    """

    def assertFileRefused(self, problem: str, content: str) -> None:
        file = self.write("bad.conf", content)
        self.assertRefused(f"{file}: {problem}", "--config", file)

    def test_unknown_key(self) -> None:
        self.assertFileRefused("dumb: no such option", "[nanomdm]\ndumb = 1\n")
        self.assertFileRefused("Debug: no such option", "[nanomdm]\nDebug = 1\n")
        self.assertFileRefused("ua_zl_dc: no such option", "[nanomdm]\nua_zl_dc = 1\n")

    def test_what_only_the_command_line_has(self) -> None:
        self.assertFileRefused("config: no such option", "[nanomdm]\nconfig = x\n")
        self.assertFileRefused("version: no such option", "[nanomdm]\nversion = 1\n")

    def test_other_section(self) -> None:
        self.assertFileRefused("unknown section [mdm]", "[nanomdm]\n[mdm]\n")
        self.assertFileRefused("unknown section [DEFAULT]", "[DEFAULT]\ndebug = 1\n[nanomdm]\n")

    def test_duplicates(self) -> None:
        self.assertFileRefused("debug: given more than once", "[nanomdm]\ndebug=1\ndebug=0\n")
        self.assertFileRefused("section [nanomdm]: given more than once", "[nanomdm]\n[nanomdm]\n")

    def test_no_section(self) -> None:
        self.assertFileRefused("line 2: [nanomdm] must come first", "# x\napi = secret\n")

    def test_line_without_value(self) -> None:
        """
        The line itself is not shown: it may be a key.
        """
        self.assertFileRefused(
            "line 3: is neither 'name = value' nor a section", "[nanomdm]\ndebug = 1\napi secret\n"
        )

    def test_continued_line(self) -> None:
        self.assertFileRefused(
            "api: goes on in an indented line", "[nanomdm]\napi = secret\n  debug = 1\n"
        )

    def test_not_text(self) -> None:
        path = self.directory / "latin1.conf"
        path.write_bytes(b"[nanomdm]\napi = \xff\n")
        self.assertRefused(f"{path}: is not UTF-8", "--config", str(path))

    def test_directory(self) -> None:
        self.assertRefused(
            f"{self.directory}: can not be read: Is a directory", "--config", str(self.directory)
        )

    def test_empty_file(self) -> None:
        self.assertEqual(self.with_ca("--config", self.write("empty.conf", "")), self.with_ca())

    def test_comments_spaces_and_marks(self) -> None:
        file = self.write(
            "x.conf", "\ufeff# c\n[nanomdm]\n; c\n\n  max-body-size=7\n  retro  =  on\n"
        )
        settings = self.with_ca("--config", file)
        self.assertEqual((settings.max_body_size, settings.retro), (7, True))


class ExampleTests(ConfigTestCase):
    """
    The example file that is installed beside the server.
    """

    def read(self, text: str) -> dict[str, str]:
        parser = ConfigParser(interpolation=None, delimiters=("=",))
        parser.read_string(text)
        return dict(parser.items("nanomdm"))

    def uncommented(self) -> str:
        return re.sub(r"^#(?=\S)", "", EXAMPLE.read_text(), flags=re.MULTILINE)

    def test_lists_every_option_with_its_default(self) -> None:
        values = self.read(self.uncommented())
        self.assertEqual(list(values), [option.name for option in OPTIONS])
        for option in OPTIONS:
            default = "0" if option.is_switch else option.default
            if default is not None:
                self.assertEqual(values[option.name], default)

    def test_says_when_there_is_no_default(self) -> None:
        paragraphs = EXAMPLE.read_text().split("\n\n")
        for option in OPTIONS:
            paragraph = next(p for p in paragraphs if f"\n#{option.name} = " in p)
            without = option.default is None and not option.is_switch
            self.assertEqual("default: none" in " ".join(paragraph.lower().split()), without)

    def test_changes_nothing_as_it_is(self) -> None:
        self.assertEqual(self.with_ca("--config", str(EXAMPLE)), self.with_ca())

    def test_uncommented_it_is_accepted(self) -> None:
        files = r"/etc/nanomdm/[\w/-]*(\.pem|\.jwt|api-keys|secret-keys)\b"
        text = re.sub(files, self.ca, self.uncommented())
        # What others exclude: cert-header and secret-key-file.
        text = re.sub(r"^(tls-client-ca|secret-keys) .*\n", "", text, flags=re.MULTILINE)
        settings = self.parse("--config", self.write("all.conf", text))
        self.assertEqual(
            (settings.api, settings.cert_header, settings.intermediate, settings.tls_key),
            ("a-long-random-secret", "X-Client-Cert", *[Path(self.ca).absolute()] * 2),
        )


class TwistdLogTests(ConfigTestCase):
    """
    How the command line reaches twistd's log.
    """

    def install(self, *flags: str, **twistd: object) -> object:
        """
        @return: the logger in twistd's options after ours were parsed.
        """
        parent = UsageOptions()
        parent.update({"logger": None, "syslog": 0, "nodaemon": 0, **twistd})
        options = Options({})
        options.parent = parent
        options.parseOptions(["--ca", self.ca, *flags])
        return parent["logger"]

    def test_ours_by_default(self) -> None:
        self.assertEqual(self.install(), "nanomdm.log.twistd_observer")

    def test_named_logger_stays(self) -> None:
        self.assertEqual(self.install(logger="some.logger"), "some.logger")

    def test_syslog_stays(self) -> None:
        self.assertIdentical(self.install(syslog=1), None)

    def test_dumpInTheBackground(self) -> None:
        """
        A daemon has no standard output.
        """
        ended = self.assertRaises(SystemExit, self.install, "--dump")
        self.assertEqual(ended.code, "twistd nanomdm: --dump: needs twistd -n")
        file = self.ini("dump = 1")
        ended = self.assertRaises(SystemExit, self.install, "--config", file)
        self.assertEqual(ended.code, f"twistd nanomdm: {file}: dump: needs twistd -n")
        self.install("--dump", nodaemon=1)
