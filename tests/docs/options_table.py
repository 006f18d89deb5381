"""
C{python -m tests.docs.options_table > docs/options.md}: all options, as a page.
"""

from __future__ import annotations

import re
from pathlib import Path

from nanomdm.options import OPTIONS, Option

ROOT = Path(__file__).parent.parent.parent

#: The headings, and the option that is the first below each.
SECTIONS = {
    "listen": "Listening",
    "api": "The API, metrics",
    "disable-mdm": "Devices",
    "webhook-url": "The webhook",
    "dm": "Declarative management and tokens",
    "auth-proxy-url": "The authentication proxy, the Activation Lock",
    "storage": "Storage",
    "apns-url": "Pushes",
    "max-body-size": "Limits and the log",
}

#: Where C{etc/nanomdm.conf.example} shows the default, something else.
EXAMPLES = {
    "listen": "127.0.0.1:9000",
    "api-secrets": "1",
    "trusted-proxies": "10.0.3.4,fd12:3456::/64",
    "superseded-identity-grace": "3600",
    "expired-identity-grace": "30",
    "webhook-concurrency": "32",
    "webhook-max-age": "12h",
    "webhook-idle": "0",
    "escrow-key-unlock-url": "https://escrow.example.com/unlock",
    "storage": "pgsql",
    "storage-dsn": "postgres://nanomdm:password@db.example.com/nanomdm",
    "apns-url": "https://api.push.apple.com:2197",
    "apns-connections": "4",
    "push-expiration": "30d",
    "repush": "0",
    "max-body-size": "16777216",
    "max-connections": "2000",
    "log-format": "json",
}

HEAD = """\
# Options

Every option of `twistd nanomdm` can be a flag, an environment variable or a line in the file that
`--config` (`NANOMDM_CONFIG`) names: there it is the name of the flag without its dashes, in the
section `[nanomdm]`. A flag beats the environment, which beats the file; a wrong value ends the
start also where it is overruled. A switch, which has no value as a flag, is on with `1`, `true`,
`yes` or `on` elsewhere, and off with `0`, `false`, `no` or `off`.

Others on the machine see flags, so keys, and DSNs and URLs with a password, belong in the
environment or in a file that only the server's user can read.

[`etc/nanomdm.conf.example`](../etc/nanomdm.conf.example) is a file to begin with, and says more
about some of them. This page is made from the server's own table:
`python -m tests.docs.options_table > docs/options.md`.
"""

TABLE = """\
| flag | environment | default | meaning | example |
| --- | --- | --- | --- | --- |
"""


def page() -> str:
    """
    @return: C{docs/options.md}.
    """
    text = HEAD
    for option in OPTIONS:
        if option.name in SECTIONS:
            text += f"\n## {SECTIONS[option.name]}\n\n{TABLE}"
        text += row(option)
    return text


def row(option: Option) -> str:
    """
    @return: the line of the table about an option.
    """
    default = "off" if option.is_switch else f"`{option.default}`" if option.default else ""
    variable = "NANOMDM_" + option.name.upper().replace("-", "_")
    cells = [f"`--{option.name}`", f"`{variable}`", default, marked(option.help), shown(option)]
    return f"| {' | '.join(cells)} |\n"


def shown(option: Option) -> str:
    """
    @return: an example.
    """
    return f"`--{option.name}`" if option.is_switch else f"`{example(option)}`"


def example(option: Option) -> str:
    """
    @return: a value that an option may have.
    """
    if option.name in EXAMPLES:
        return EXAMPLES[option.name]
    text = (ROOT / "etc" / "nanomdm.conf.example").read_text()
    found = re.search(rf"^#{option.name} = (.+)$", text, re.MULTILINE)
    assert found, option.name
    return found[1]


def marked(help: str) -> str:
    """
    @return: an explanation with names of options and examples as code.
    """
    text = re.sub(r"(?<!\S)(--[a-z-]+[a-z])", r"`\1`", help.replace("|", r"\|"))
    return text + "."


if __name__ == "__main__":
    print(page(), end="")
