"""
The lock files, from which containers are built.  C{.ci/check-lock} installs from them.
"""

from __future__ import annotations

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

_ROOT = Path(__file__).parent.parent
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> dict[str, tuple[str, int]]:
    """
    @return: for each project in a lock file, its version and how many hashes it has.
    """
    text = (_ROOT / name).read_text().replace("\\\n", "")
    found: dict[str, tuple[str, int]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line.partition(" --hash")[0])
        [version] = requirement.specifier
        assert version.operator == "==", line
        hashes = len(_HASH.findall(line))
        found[canonicalize_name(requirement.name)] = (version.version, hashes)
    return found


class LockTests(SynchronousTestCase):
    """
    They have what is asked for elsewhere.
    """

    def assertLocked(self, name: str, wanted: list[str]) -> None:
        projects = locked(name)
        for line in wanted:
            requirement = Requirement(line)
            version, _ = projects[canonicalize_name(requirement.name)]
            self.assertIn(version, requirement.specifier, f"{line}: make lock")
        for project, (_, hashes) in projects.items():
            # A version has a source at least, and all of these have a wheel.
            self.assertGreaterEqual(hashes, 2, project)

    def test_server(self) -> None:
        """
        All that the server needs, with the drivers of all databases.
        """
        setup = ConfigParser()
        setup.read(_ROOT / "setup.cfg")
        extras = setup["options.extras_require"]
        lines = [setup["options"]["install_requires"], extras["mysql"], extras["pgsql"]]
        self.assertLocked("requirements.lock", "".join(lines).split())

    def test_build(self) -> None:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
        self.assertLocked("requirements-build.lock", project["build-system"]["requires"])

    def test_noHost(self) -> None:
        """
        Where the files come from is for each site to say.
        """
        for name in ("requirements.lock", "requirements-build.lock"):
            self.assertNotRegex((_ROOT / name).read_text(), r"://|index|find-links")
