"""
Tests of what is installed: the C{twistd} command and the package's metadata.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from nanomdm import __version__
from nanomdm.config import Options
from nanomdm.tap import makeService

ROOT = Path(__file__).parent.parent

#: Where a project's name is not the name that is imported.
PROJECTS = {
    "zope": "zope.interface",
    "OpenSSL": "pyopenssl",
    "prometheus_client": "prometheus-client",
}


class CommandTestCase(SynchronousTestCase):
    """
    Runs Python in a directory of its own, with this checkout's code.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def python(
        self, code: str, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("NANOMDM_")}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.directory,
            env={**environ, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def twistd(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        code = "from twisted.scripts.twistd import run; run()"
        return self.python(code, *arguments, **variables)


class RefusalTests(CommandTestCase):
    """
    A server that can not start says why in one line.
    """

    def assertRefused(self, line: str, *flags: str, **variables: str) -> None:
        ended = self.twistd("-n", "nanomdm", *flags, **variables)
        self.assertEqual(
            (ended.returncode, ended.stdout, ended.stderr), (1, "", f"twistd nanomdm: {line}\n")
        )
        self.assertFalse((self.directory / "twistd.pid").exists())

    def test_unknown_flag(self) -> None:
        self.assertRefused("option --foo not recognized; see twistd nanomdm --help", "--foo")

    def test_bad_flag(self) -> None:
        self.assertRefused("--storage: 'x' is not sqlite, inmem, mysql or pgsql", "--storage", "x")

    def test_dsn(self) -> None:
        """
        What is wrong with it is told without the password.
        """
        for kind, dsn, problem in (
            ("mysql", "u:sesam@tcp(h:x)/db", "port: is not a number from 1 to 65535"),
            ("mysql", "mysql://u:sesam@h/db?tsl=true", "tsl: no such parameter"),
            ("pgsql", "postgres://u:sesam@h/db?tls=true", "tls: no such parameter"),
        ):
            self.assertRefused(
                f"NANOMDM_STORAGE_DSN: {problem}",
                *("--storage", kind),
                NANOMDM_STORAGE_DSN=dsn,
            )

    def test_storage_options(self) -> None:
        self.assertRefused(
            "--storage-options: pool_size: storage sqlite does not have this option",
            *("--storage-options", "pool_size=3"),
        )
        self.assertRefused(
            "storages come in sets, but there are 2 of --storage, 1 of --storage-dsn, "
            "0 of --storage-options",
            *("--storage", "sqlite", "--storage", "inmem", "--storage-dsn", "x.db"),
        )

    def test_bad_variable(self) -> None:
        self.assertRefused("NANOMDM_API: must not be empty", NANOMDM_API="")

    def test_variable_in_another_encoding(self) -> None:
        self.assertRefused("NANOMDM_API: is not UTF-8", NANOMDM_API="k\udcff")

    def test_unknown_key_in_the_file(self) -> None:
        (self.directory / "n.conf").write_text("[nanomdm]\nfoo = 1\n")
        self.assertRefused("n.conf: foo: no such option", NANOMDM_CONFIG="n.conf")

    def test_bad_value_in_the_file(self) -> None:
        (self.directory / "n.conf").write_text("[nanomdm]\nmax-body-size = 1k\n")
        self.assertRefused(
            "n.conf: max-body-size: '1k' is not a number from 1 to 2147483647",
            *("--config", "n.conf"),
        )

    def test_no_ca(self) -> None:
        self.assertRefused("--ca: required unless --disable-mdm is given")


class PluginTests(CommandTestCase):
    """
    How C{twistd} finds the server.
    """

    def test_twistd_lists_it(self) -> None:
        ended = self.twistd("--help")
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertRegex(ended.stdout, r"\n +nanomdm +Apple MDM server\n")

    def test_version(self) -> None:
        ended = self.twistd("nanomdm", "--version")
        self.assertEqual(
            (ended.returncode, ended.stdout, ended.stderr), (0, f"nanomdm {__version__}\n", "")
        )

    def test_help(self) -> None:
        ended = self.twistd("nanomdm", "--help")
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertIn("\n      --listen=", ended.stdout)

    def test_service_maker(self) -> None:
        [maker] = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "nanomdm"]
        self.assertIdentical(maker.options, Options)
        self.assertIdentical(maker.makeService, makeService)

    def test_plugin_directories_are_no_packages(self) -> None:
        """
        An C{__init__} there would hide Twisted's own plugins, or all of Twisted.
        """
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])

    def test_options_leave_the_reactor_open(self) -> None:
        """
        C{twistd --reactor} chooses after the options are known.
        """
        ended = self.python(
            "import sys, nanomdm.tap; print('twisted.internet.reactor' in sys.modules)"
        )
        self.assertEqual((ended.stdout, ended.stderr), ("False\n", ""))


class MetadataTests(SynchronousTestCase):
    """
    C{setup.cfg}.
    """

    def setUp(self) -> None:
        self.setup = ConfigParser()
        self.setup.read(ROOT / "setup.cfg")

    def test_every_directory_of_code_is_shipped(self) -> None:
        patterns = self.setup["options.packages.find"]["include"].split()
        for file in (ROOT / "nanomdm").rglob("*.py"):
            package = ".".join(file.parent.relative_to(ROOT).parts)
            self.assertTrue(any(fnmatch(package, pattern) for pattern in patterns), package)
            self.assertTrue((file.parent / "__init__.py").exists(), package)
        self.assertIn("twisted.plugins", patterns)
        self.assertFalse(any(fnmatch("tests", pattern) for pattern in patterns))

    def test_every_other_file_is_shipped(self) -> None:
        data = self.setup["options.package_data"]
        for file in (ROOT / "nanomdm").rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                package = ".".join(file.parent.relative_to(ROOT).parts)
                self.assertIn(file.name, data.get(package, "").split(), package)

    def test_declares_what_it_imports(self) -> None:
        """
        A package that only comes along with another one may go with it.
        """
        extras = self.setup["options.extras_require"]
        lines = " ".join(
            [self.setup["options"]["install_requires"], extras["mysql"], extras["pgsql"]]
        ).split()
        declared = {re.split(r"[\[>]", line)[0] for line in lines}
        imported: set[str] = set()
        for file in (ROOT / "nanomdm").rglob("*.py"):
            imported |= imports(file)
        foreign = imported - sys.stdlib_module_names - {"nanomdm"}
        self.assertIn("twisted", foreign)
        self.assertEqual({PROJECTS.get(name, name) for name in foreign} - declared, set())

    def test_minimum_versions(self) -> None:
        for line in self.setup["options"]["install_requires"].split():
            self.assertRegex(line, r"^[a-z0-9_.-]+(\[tls\])?>=[0-9.]+$")


def imports(file: Path) -> set[str]:
    """
    @return: the top-level names of what a module imports, apart from its own
        package.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names
