"""
TLS to a MySQL server, as the parameters of its DSN describe it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from nanomdm.errors import ConfigError
from nanomdm.values import choice, readable_file

#: The parameters that L{tls_arguments} reads.
TLS_PARAMETERS: Final = ("tls", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify")

_MODES: Final = {"1": "true", "0": "false"}
_mode: Final = choice("true", "skip-verify", "preferred", "false")
_verify: Final = choice("identity", "ca", "none")
_FILES: Final = {"ssl_ca", "ssl_cert", "ssl_key"}


def tls_arguments(parameters: Mapping[str, str]) -> dict[str, Any]:
    """
    Keyword arguments for C{pymysql.connect}.  Reads certificates and keys, so
    that connections need not do that again.

    C{tls} means what it means to Go's driver: C{true} checks the server's
    certificate and its name; C{skip-verify} checks neither; C{preferred} does
    without TLS where the server has none; C{false} never uses it.  C{ssl_ca}, and
    C{ssl_cert} with C{ssl_key} to authenticate, are PEM files; C{ssl_verify} is
    C{identity}, C{ca} (any name) or C{none}.  With any of these C{tls} is
    C{true}, otherwise C{preferred}, unless it is given.

    @param parameters: of the DSN, by name.
    @return: with C{ssl} an L{ssl.SSLContext}, when TLS is a must.
    @raise ConfigError: a value is bad, a file unreadable, or the parameters do
        not fit together; the text begins with the name of one.
    """
    given = [name for name in TLS_PARAMETERS if name in parameters]
    default = "true" if given else "preferred"
    mode = parameters.get("tls", default).lower()
    mode = _named("tls", _mode, _MODES.get(mode, mode))
    allowed = {"true": set(TLS_PARAMETERS), "skip-verify": {"tls", "ssl_cert", "ssl_key"}}
    for name in given:
        if name not in allowed.get(mode, {"tls"}):
            raise ConfigError(f"{name}: has no meaning with tls={mode}")
    if mode == "false":
        return {"ssl_disabled": True}
    return {} if mode == "preferred" else {"ssl": _context(mode, parameters)}


def _context(mode: str, parameters: Mapping[str, str]) -> ssl.SSLContext:
    for name in _FILES & parameters.keys():
        _named(name, readable_file, parameters[name])
    verify = "none"
    if mode == "true":
        verify = _named("ssl_verify", _verify, parameters.get("ssl_verify", "identity"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = verify == "identity"
    context.verify_mode = ssl.CERT_NONE if verify == "none" else ssl.CERT_REQUIRED
    try:
        if "ssl_ca" in parameters:
            context.load_verify_locations(parameters["ssl_ca"])
        else:
            context.load_default_certs()
    except ssl.SSLError:
        raise ConfigError("ssl_ca: holds no certificates in PEM form") from None
    _load_own(context, parameters)
    return context


def _load_own(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    if "ssl_cert" not in parameters:
        if "ssl_key" in parameters:
            raise ConfigError("ssl_key: needs ssl_cert")
        return
    try:
        # Without a password of ours, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(
            parameters["ssl_cert"], parameters.get("ssl_key"), password=lambda: "-"
        )
    except ssl.SSLError:
        raise ConfigError(
            "ssl_cert: does not hold a certificate and its key (or ssl_key the key), "
            "in PEM form and not encrypted"
        ) from None


def _named(name: str, parse: Any, value: str) -> Any:
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
