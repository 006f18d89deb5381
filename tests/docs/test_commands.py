"""
Tests of the commands, options, paths and variables that the documentation names: there are
such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import parse_qsl, urlsplit

import click
import yaml
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import main
from nanomdm.options import OPTIONS
from tests.docs.pages import PAGES, ROOT, commands, simple_commands, spans

#: What every program has.
_COMMON = {"help", "version"}

_SERVER = {option.name for option in OPTIONS} | {"config"} | _COMMON
_TWISTD = {name.rstrip("=") for name in ServerOptions().longOpt}

_USERS = ("--uid", "--gid")

#: Where this server is, in the documentation.
_HOSTS = {"127.0.0.1", "localhost", "mdm.example.com", "new.example.com", "your.host"}

#: Variables of the tests, and of who starts servers.
_VARIABLES = {"NANOMDM_CONFIG", "NANOMDM_MYSQL_ROOT", "NANOMDM_REQUIRE_ENGINES"}

_PATH = re.compile(
    r"(?:([A-Z]+) )?"
    r"(/(?:v1|mdm|checkin|migration|version|healthz|readyz|metrics|authproxy)\b[^ ?]*)"
)


class Wrong(Exception):
    """
    A command can not be meant like this.
    """


def paths() -> dict[str, dict[str, set[str]]]:
    """
    @return: for each path of the API, as regular expression, the methods and the
        parameters that they have in the query.
    """
    described = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_bytes())
    shared = described["components"]["parameters"]

    def names(parameters: Sequence[dict[str, str]]) -> set[str]:
        whole = [
            shared[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in parameters
        ]
        return {one["name"] for one in whole if one["in"] == "query"}

    found = {}
    for path, item in described["paths"].items():
        common = names(item.get("parameters", []))
        tail = ".+" if path.startswith("/authproxy") else "[^/]+"
        found[re.sub(r"{\w+}", tail, path)] = {
            method.upper(): common | names(operation.get("parameters", []))
            for method, operation in item.items()
            if method != "parameters"
        }
    return found


_PATHS = paths()


def methods_of(path: str) -> dict[str, set[str]]:
    """
    @raise Wrong: there is no such path.
    """
    for pattern, methods in _PATHS.items():
        if re.fullmatch(pattern, path):
            return methods
    raise Wrong(f"no path {path}")


def check_twistd(words: Sequence[str]) -> None:
    """
    C{twistd [options] nanomdm [options]}.
    """
    # Behind these it is a user's name.
    names = [i for i, word in enumerate(words) if word == "nanomdm" and words[i - 1] not in _USERS]
    if not names:
        raise Wrong("twistd without nanomdm")
    for known, part in ((_TWISTD, words[1 : names[0]]), (_SERVER, words[names[0] + 1 :])):
        for word in part:
            name = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and name not in known:
                raise Wrong(f"no option --{name}")


def check_ctl(words: Sequence[str]) -> None:
    """
    C{nanomdmctl}: each subcommand, its options and that nothing is missing.
    """
    command: click.Command = main
    context = click.Context(command, info_name="nanomdmctl")
    arguments = list(words[1:])
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(context, arguments.pop(0))
        if found is None:
            raise Wrong("no such subcommand")
        command, context = found, click.Context(found, parent=context)
    try:
        given, rest, _ = command.make_parser(context).parse_args(arguments)
    except click.UsageError as error:
        raise Wrong(error.format_message()) from None
    if rest and not isinstance(command, click.Group):
        raise Wrong(f"too much: {rest}")
    if isinstance(command, click.Group) and not given:
        raise Wrong("a subcommand is missing")
    if given.get("help") or given.get("version"):
        return
    for parameter in command.params:
        value = given.get(parameter.name)
        missing = not isinstance(value, str | tuple | list) or not value
        if parameter.required and parameter.envvar is None and missing:
            raise Wrong(f"{parameter.name} is missing")


def check_curl(words: Sequence[str]) -> None:
    """
    C{curl}: method, path and query.
    """
    for word in words:
        url = urlsplit(word)
        if url.scheme in ("http", "https") and url.hostname in _HOSTS:
            methods = methods_of(url.path)
            method = curl_method(words)
            if method not in methods:
                raise Wrong(f"{method} {url.path}")
            names = {name for name, _ in parse_qsl(url.query, keep_blank_values=True)}
            if unknown := names - methods[method]:
                raise Wrong(f"{url.path} has no {unknown}")


def curl_method(words: Sequence[str]) -> str:
    """
    @return: what curl asks with.
    """
    if "-X" in words:
        return words[words.index("-X") + 1]
    if "-T" in words:
        return "PUT"
    return "POST" if any(re.match(r"-d$|--data", word) for word in words) else "GET"


def check_make(words: Sequence[str]) -> None:
    """
    C{make}: its targets.
    """
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words[1:]:
        if "=" not in word and word not in targets:
            raise Wrong(f"no target {word}")


_CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "twistd": check_twistd,
    "nanomdmctl": check_ctl,
    "curl": check_curl,
    "make": check_make,
}


def checking(words: Sequence[str]) -> Callable[[Sequence[str]], None] | None:
    """
    @return: what knows a command.
    """
    return _CHECKS.get(words[0].rpartition("/")[2])


def check(words: Sequence[str]) -> str | None:
    """
    @return: what is wrong with a command, if it is one that is known here.
    """
    try:
        if known := checking(words):
            known(words)
    except Wrong as wrong:
        return f"{' '.join(words)}: {wrong}"
    return None


def ctl_commands(command: click.Command = main) -> Iterator[click.Command]:
    """
    @return: C{nanomdmctl} and all that is below it.
    """
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if below := command.get_command(context, name):
                yield from ctl_commands(below)


class CommandTests(SynchronousTestCase):
    """
    What is to be typed.
    """

    def assertNothing(self, problems: Iterator[str]) -> None:
        """
        No page has any.
        """
        self.assertEqual(list(problems), [])

    def test_commands(self) -> None:
        self.assertNothing(
            f"{page.relative_to(ROOT)}: {problem}"
            for page in PAGES
            for words in commands(page)
            if (problem := check(words))
        )
        checked = [words for page in PAGES for words in commands(page) if checking(words)]
        self.assertTrue(len(checked) > 30, len(checked))

    def test_options(self) -> None:
        """
        Where an option is named in the text, some program here has it.
        """
        ctl = {
            name.lstrip("-")
            for command in ctl_commands()
            for parameter in command.params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        known = _SERVER | _TWISTD | ctl
        self.assertNothing(
            f"{page.relative_to(ROOT)}: --{name}"
            for page in PAGES
            for span in spans(page)
            if re.match("--|twistd |nanomdmctl ", span)
            for name in re.findall(r"(?:^| )--([a-z][a-z-]*[a-z])(?![a-z-]*…)", span)
            if name not in known
        )

    def test_variables(self) -> None:
        known = {f"NANOMDM_{option.name.upper().replace('-', '_')}" for option in OPTIONS}
        for command in ctl_commands():
            for parameter in command.params:
                names = parameter.envvar or ()
                known |= {names} if isinstance(names, str) else set(names)
        self.assertNothing(
            f"{page.relative_to(ROOT)}: {name}"
            for page in PAGES
            for name in re.findall(r"NANOMDM_[A-Z_]*[A-Z]", page.read_text())
            if name not in known | _VARIABLES
        )

    def test_paths(self) -> None:
        """
        Where a path of the API is named in the text, with or without its method.
        """
        self.assertNothing(
            f"{page.relative_to(ROOT)}: {span}"
            for page in PAGES
            for span in spans(page)
            if (match := _PATH.match(span)) and not known_path(match)
        )

    def test_sees(self) -> None:
        """
        Each check can fail.
        """
        for command, problem in (
            ("twistd -n nanomdm --ca x --lisden :1", "no option --lisden"),
            ("twistd -n --pidfil= nanomdm", "no option --pidfil"),
            ("X=1 nanomdmctl copie", "no such subcommand"),
            ("nanomdmctl copy --form-dsn x", "No such option"),
            ("nanomdmctl export", "is missing"),
            ("cat x | curl -T - http://127.0.0.1:9000/v1/puscert", "no path /v1/puscert"),
            ("curl -X PATCH https://mdm.example.com/v1/pushcert", "PATCH /v1/pushcert"),
            ("curl 'http://localhost/v1/enrollments?serail=1'", "has no {'serail'}"),
            ("make tset", "no target tset"),
        ):
            *_, words = simple_commands(command)
            self.assertIn(problem, check(words) or "")


def known_path(match: re.Match[str]) -> bool:
    """
    @return: whether there is such a path, or others below it, and the method.
    """
    method, path = match.groups()
    path = re.sub(r"<[^>]*>(,<[^>]*>)*|…|ID|UUID", "x", path).rstrip("/")
    try:
        methods = methods_of(path)
    except Wrong:
        return method is None and any(one.startswith(f"{path}/") for one in _PATHS)
    return method is None or method in methods
