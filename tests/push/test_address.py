"""
Tests for the addresses of APNs and of proxies.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.push.address import (
    APNsURL,
    ProxyURL,
    environment_proxy,
    parse_apns_proxy,
    parse_apns_url,
    parse_proxy_url,
    proxy_to_use,
)

APPLE = APNsURL("api.push.apple.com")
SECRET = "s3cr3t"


class APNsURLTests(SynchronousTestCase):
    """
    L{parse_apns_url} and L{APNsURL}.
    """

    def test_forms(self) -> None:
        for text, host, port in (
            ("https://api.push.apple.com", "api.push.apple.com", 443),
            ("https://api.push.apple.com/", "api.push.apple.com", 443),
            ("https://api.push.apple.com:443", "api.push.apple.com", 443),
            ("https://api.push.apple.com:2197", "api.push.apple.com", 2197),
            ("HTTPS://API.push.apple.com", "api.push.apple.com", 443),
            ("HTTPS://API.push.apple.com:1", "api.push.apple.com", 1),
            ("https://localhost:65535", "localhost", 65535),
            ("https://127.0.0.1:8443", "127.0.0.1", 8443),
            ("https://[::1]", "::1", 443),
            ("https://[2001:DB8:0:0::1]:8443/", "2001:db8::1", 8443),
            ("https://xn--mlaut-jva.example", "xn--mlaut-jva.example", 443),
            ("https://a_b.1.example", "a_b.1.example", 443),
        ):
            self.assertEqual(parse_apns_url(text), APNsURL(host, port))

    def test_authority(self) -> None:
        self.assertEqual(APPLE.authority, "api.push.apple.com")
        self.assertEqual(APNsURL("host", 2197).authority, "host:2197")
        self.assertEqual(APNsURL("::1").authority, "[::1]")
        self.assertEqual(APNsURL("::1", 2197).authority, "[::1]:2197")

    def test_hostAndPort(self) -> None:
        self.assertEqual(APPLE.host_and_port, "api.push.apple.com:443")
        self.assertEqual(APNsURL("::1", 2197).host_and_port, "[::1]:2197")

    def test_refused(self) -> None:
        for text, words in (
            ("", "is not https://host or https://host:port"),
            ("api.push.apple.com", "is not https://"),
            ("api.push.apple.com:443", "is not https://"),
            ("http://api.push.apple.com", "is not https://"),
            ("https:api.push.apple.com", "is not https://"),
            ("https://", "is not https://"),
            ("https:///3/device", "is not https://"),
            ("https://:443", "is not https://"),
            ("https://host:", "is not https://"),
            ("https://host:https", "is not https://"),
            ("https://::1", "is not https://"),
            ("https://[::1", "is not https://"),
            ("https://[fe80::1%25eth0]", "is not https://"),
            ("https://host\n", "control character"),
            ("https://\udcff", "not UTF-8"),
            ("https://host:0", "port"),
            ("https://host:65536", "port"),
            ("https://host:-1", "port"),
            ("https://user@host", "user name"),
            ("https://user:password@host", "user name"),
            ("https://host/3/device", "behind"),
            ("https://host//", "behind"),
            ("https://host?a=b", "behind"),
            ("https://host/#a", "behind"),
            ("https://ho st", "neither a name nor"),
            ("https://-host", "neither a name nor"),
            ("https://host..example", "neither a name nor"),
            ("https://host.", "neither a name nor"),
            ("https://\u00fcmlaut.example", "neither a name nor"),
            ("https://1.2.3", "neither a name nor"),
            ("https://256.1.1.1", "neither a name nor"),
            (f"https://{'a' * 64}.example", "neither a name nor"),
            (f"https://{'a.' * 127}aa", "neither a name nor"),
        ):
            error = self.assertRaises(ConfigError, parse_apns_url, text)
            self.assertIn(words, str(error), text)


class ProxyURLTests(SynchronousTestCase):
    """
    L{parse_proxy_url}, L{parse_apns_proxy} and L{ProxyURL}.
    """

    def test_forms(self) -> None:
        for text, host, port, credentials in (
            ("http://proxy", "proxy", 80, None),
            ("http://proxy:3128/", "proxy", 3128, None),
            ("HTTP://Proxy", "proxy", 80, None),
            ("http://[::1]:8080", "::1", 8080, None),
            ("http://user@proxy:3128", "proxy", 3128, b"user:"),
            ("http://user:@proxy:3128", "proxy", 3128, b"user:"),
            ("http://user:pass@proxy", "proxy", 80, b"user:pass"),
            ("http://us%40er:p%3Aa:s%C3%BC@proxy", "proxy", 80, "us@er:p:a:sü".encode()),
            ("http://:pass@proxy", "proxy", 80, b":pass"),
        ):
            self.assertEqual(parse_proxy_url(text), ProxyURL(host, port, credentials))

    def test_hostAndPort(self) -> None:
        self.assertEqual(ProxyURL("::1").host_and_port, "[::1]:80")

    def test_credentialsAreNotShown(self) -> None:
        self.assertNotIn(SECRET, repr(parse_proxy_url(f"http://user:{SECRET}@proxy")))

    def test_refusedWithoutQuoting(self) -> None:
        for text, words in (
            (SECRET, "is not http://[user:password@]host[:port]"),
            (f"user:{SECRET}@proxy:3128", "is not http://"),
            (f"socks5://user:{SECRET}@proxy", "is not http://"),
            (f"http:user:{SECRET}@proxy", "is not http://"),
            (f"http://user:{SECRET}@", "is not http://"),
            (f"http://user:{SECRET}@proxy:x", "is not http://"),
            (f"http://user:{SECRET}/x@proxy", "is not http://"),
            (f"http://user:{SECRET}@{SECRET}@proxy", "is not http://"),
            (f"http://{SECRET}?@proxy", "behind"),
            (f"http://{SECRET}#@proxy", "behind"),
            (f"http://user:{SECRET}@proxy/path", "behind"),
            (f"https://user:{SECRET}@proxy", "only http:// proxies are supported"),
            (f"http://user:{SECRET}@proxy:0", "port"),
            (f"http://user:{SECRET}@{SECRET}-", "neither a name nor"),
            (f"http://user%3A{SECRET}:x@proxy", "colon"),
            (f"http://user:{SECRET}\udcff@proxy", "not UTF-8"),
        ):
            error = self.assertRaises(ConfigError, parse_proxy_url, text)
            self.assertIn(words, str(error), text)
            self.assertNotIn(SECRET, str(error))

    def test_option(self) -> None:
        self.assertEqual(parse_apns_proxy("none"), "none")
        self.assertEqual(parse_apns_proxy("http://proxy"), ProxyURL("proxy"))
        self.assertRaises(ConfigError, parse_apns_proxy, "")


class EnvironmentTests(SynchronousTestCase):
    """
    L{environment_proxy} and L{proxy_to_use}.
    """

    def assertProxy(self, host: str | None, environ: dict[str, str], url: APNsURL = APPLE) -> None:
        proxy = environment_proxy(environ, url)
        self.assertEqual(proxy and proxy.host, host, environ)

    def test_names(self) -> None:
        self.assertProxy(None, {})
        self.assertProxy("upper", {"HTTPS_PROXY": "http://upper"})
        self.assertProxy("lower", {"https_proxy": "http://lower", "HTTPS_PROXY": "http://upper"})
        self.assertProxy(None, {"https_proxy": "", "HTTPS_PROXY": "http://upper"})
        self.assertProxy(None, {"HTTP_PROXY": "http://other", "http_proxy": "http://other"})

    def test_schemeIsOptional(self) -> None:
        proxy = environment_proxy({"HTTPS_PROXY": "user:password@proxy:3128"}, APPLE)
        self.assertEqual(proxy, ProxyURL("proxy", 3128, b"user:password"))

    def test_malformed(self) -> None:
        for name in ("HTTPS_PROXY", "https_proxy"):
            error = self.assertRaises(
                ConfigError, environment_proxy, {name: f"http://u:{SECRET}@proxy:x"}, APPLE
            )
            self.assertEqual(str(error), f"{name}: is not http://[user:password@]host[:port]")

    def test_noProxy(self) -> None:
        for listed, bypassed in (
            ("", False),
            ("*", True),
            ("example.org, *", True),
            ("api.push.apple.com", True),
            ("API.Push.Apple.com", True),
            ("api.push.apple.com:443", True),
            ("api.push.apple.com:2197", False),
            ("example.org , apple.com", True),
            (".apple.com", True),
            ("push.apple.com:443", True),
            ("ple.com", False),
            ("pi.push.apple.com", False),
            ("api.push.apple.com.example.org", False),
            (",, .,", False),
        ):
            for name in ("no_proxy", "NO_PROXY"):
                host = None if bypassed else "proxy"
                self.assertProxy(host, {"HTTPS_PROXY": "http://proxy", name: listed})
        both = {"HTTPS_PROXY": "http://proxy", "no_proxy": "", "NO_PROXY": "*"}
        self.assertProxy("proxy", both)

    def test_noProxyHasAddresses(self) -> None:
        for listed in ("2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443"):
            environ = {"HTTPS_PROXY": "http://proxy", "NO_PROXY": listed}
            self.assertProxy(None, environ, APNsURL("2001:db8::1"))
            self.assertProxy("proxy", environ, APNsURL("2001:db8::2"))

    def test_thisMachine(self) -> None:
        for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
            self.assertProxy("proxy", {"HTTPS_PROXY": "http://proxy"}, APNsURL(host, 8443))
            listed = {"HTTPS_PROXY": "http://proxy", "NO_PROXY": host}
            self.assertProxy(None, listed, APNsURL(host, 8443))

    def test_optionBeatsEnvironment(self) -> None:
        environ = {"HTTPS_PROXY": "http://environment"}
        option = ProxyURL("option")
        self.assertEqual(proxy_to_use(option, environ, APPLE), option)
        self.assertIsNone(proxy_to_use("none", {"HTTPS_PROXY": "malformed:"}, APPLE))
        self.assertEqual(proxy_to_use(None, environ, APPLE), ProxyURL("environment"))
        self.assertIsNone(proxy_to_use(None, {}, APPLE))
