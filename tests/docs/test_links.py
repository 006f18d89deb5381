"""
Tests of the links in the documentation.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.docs.pages import PAGES, ROOT, prose, spans

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class LinkTests(SynchronousTestCase):
    """
    Links within the documentation.
    """

    def test_leadSomewhere(self) -> None:
        broken = []
        for page in PAGES:
            for link in _LINK.findall(prose(page)):
                if "://" not in link and not self.leads_somewhere(page, link):
                    broken.append(f"{page.relative_to(ROOT)}: {link}")
        self.assertEqual(broken, [])

    def leads_somewhere(self, page: Path, link: str) -> bool:
        """
        Whether there is such a file, in this checkout, and such a heading.
        """
        name, mark, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or not target.is_relative_to(ROOT):
            return False
        return not mark or anchor in anchors(target)

    def test_filesExist(self) -> None:
        """
        Modules and packages that are named, from here or from C{nanomdm/} on.
        """
        missing = [
            f"{page.relative_to(ROOT)}: {span}"
            for page in PAGES
            for span in spans(page)
            if re.fullmatch(r"[a-z][\w/]*/(\w+\.py)?", span)
            if not any((start / span).exists() for start in (ROOT, ROOT / "nanomdm"))
        ]
        self.assertEqual(missing, [])

    def test_everyPageIsLinked(self) -> None:
        """
        From another one.
        """
        linked = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in PAGES
            for link in _LINK.findall(prose(page))
            if "://" not in link and not link.startswith("#")
        }
        self.assertEqual(set(PAGES) - linked - {ROOT / "README.md"}, set())

    def test_anchors(self) -> None:
        """
        As code hosts make them.
        """
        page = Path(self.mktemp())
        page.write_text("# A `b`-c, (d)!\n\n```\n# no\n```\n\n## E_f\n## E_f\n")
        self.assertEqual(anchors(page), {"a-b-c-d", "e_f", "e_f-1"})


def anchors(page: Path) -> set[str]:
    """
    @return: the anchors of the headings of a page.
    """
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(prose(page)):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found
