"""
Where APNs is, and which proxy leads there.

A proxy's URL may hold a password, so no message quotes any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from attrs import field, frozen
from hyperlink import URL

from nanomdm.errors import ConfigError
from nanomdm.values import host_of, parsed_url, port_of

_HTTPS_PORT: Final = 443
_HTTP_PORT: Final = 80

_APNS_FORM: Final = "is not https://host or https://host:port"
_PROXY_FORM: Final = "is not http://[user:password@]host[:port]"


@frozen
class APNsURL:
    """
    Where APNs is.

    @ivar host: a name in lower case, or an IP address without brackets.
    @ivar port: from 1 to 65535.
    """

    host: str
    port: int = _HTTPS_PORT

    @property
    def authority(self) -> str:
        """
        Host and port as C{:authority} has them: the port of HTTPS is left out (RFC
        9110 section 4.2.2).
        """
        return _bracketed(self.host) if self.port == _HTTPS_PORT else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """
        Host and port, as C{CONNECT} and messages name them.
        """
        return f"{_bracketed(self.host)}:{self.port}"


@frozen
class ProxyURL:
    """
    Where an HTTP proxy is.

    @ivar host: as in L{APNsURL}.
    @ivar port: from 1 to 65535.
    @ivar credentials: C{user:password}, for Basic authentication; L{None} when the
        URL has none.
    """

    host: str
    port: int = _HTTP_PORT
    credentials: bytes | None = field(default=None, repr=False)

    @property
    def host_and_port(self) -> str:
        """
        Host and port, as messages name them.
        """
        return f"{_bracketed(self.host)}:{self.port}"


def parse_apns_url(value: str) -> APNsURL:
    """
    @param value: C{https://host}, C{https://host:port}; an IPv6 address stands in
        brackets.
    @raise ConfigError: it is anything else.
    """
    url = parsed_url(value, _APNS_FORM)
    if url.scheme.lower() != "https" or not url.host:
        raise ConfigError(_APNS_FORM)
    if url.userinfo:
        raise ConfigError("holds a user name, which APNs has no use for")
    _check_nothing_follows(url)
    return APNsURL(host_of(url), port_of(url, _HTTPS_PORT))


def parse_proxy_url(value: str) -> ProxyURL:
    """
    @param value: C{http://host:port}, with C{user:password@} in front of the host
        where the proxy wants that; both are percent-decoded.
    @raise ConfigError: it is anything else.  The text quotes none of it.
    """
    url = parsed_url(value, _PROXY_FORM)
    if url.scheme.lower() == "https":
        raise ConfigError("is a proxy to talk TLS to; only http:// proxies are supported")
    if url.scheme.lower() != "http" or not url.host:
        raise ConfigError(_PROXY_FORM)
    _check_nothing_follows(url)
    return ProxyURL(host_of(url), port_of(url, _HTTP_PORT), _credentials(url.userinfo))


def parse_apns_proxy(value: str) -> ProxyURL | Literal["none"]:
    """
    @param value: for L{parse_proxy_url}, or C{none}: no proxy, whatever the
        environment says.
    @raise ConfigError: it is neither.
    """
    return "none" if value == "none" else parse_proxy_url(value)


def proxy_to_use(
    option: ProxyURL | Literal["none"] | None, environ: Mapping[str, str], url: APNsURL
) -> ProxyURL | None:
    """
    @param option: what L{parse_apns_proxy} made of the option; L{None} when it is
        not given, and the environment decides.
    @param environ: the environment variables.
    @param url: where to connect.
    @return: the proxy to go through, if any.
    @raise ConfigError: see L{environment_proxy}.
    """
    if option is None:
        return environment_proxy(environ, url)
    return None if option == "none" else option


def environment_proxy(environ: Mapping[str, str], url: APNsURL) -> ProxyURL | None:
    """
    The proxy that C{HTTPS_PROXY} names, unless C{NO_PROXY} lists the host.  As in
    Python's C{urllib.request}, names in lower case win even when they are empty, and
    C{NO_PROXY} has domains, whose subdomains are meant too, separated by commas, or
    C{*}.

    @param environ: the environment variables.
    @param url: where to connect.
    @raise ConfigError: the URL is malformed; the text begins with the variable's
        name and does not quote it.
    """
    name, value = _variable(environ, "https_proxy")
    if not value or _is_listed(url, _variable(environ, "no_proxy")[1]):
        return None
    try:
        return parse_proxy_url(value if "://" in value else f"http://{value}")
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _variable(environ: Mapping[str, str], lower: str) -> tuple[str, str]:
    name = lower if lower in environ else lower.upper()
    return name, environ.get(name, "")


def _is_listed(url: APNsURL, no_proxy: str) -> bool:
    forms = (url.host, _bracketed(url.host), url.host_and_port)
    for entry in no_proxy.lower().split(","):
        domain = entry.strip().lstrip(".")
        if domain == "*" or any(f".{form}".endswith(f".{domain}") for form in forms):
            return True
    return False


def _check_nothing_follows(url: URL) -> None:
    if url.path not in ((), ("",)) or url.query or url.fragment:
        raise ConfigError("has something behind the host and port")


def _credentials(userinfo: str) -> bytes | None:
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    if b":" in unquote_to_bytes(user):
        raise ConfigError("has a user name with a colon, which Basic authentication can not send")
    return unquote_to_bytes(user) + b":" + unquote_to_bytes(password)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
