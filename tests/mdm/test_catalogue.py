"""
Tests for L{nanomdm.mdm.catalogue}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.mdm.catalogue import CATALOGUE, QUERIES, Care, Key, Kind, care_of


class CatalogueTests(SynchronousTestCase):
    """
    What holds for all of it.
    """

    def test_sorted(self) -> None:
        self.assertEqual(list(CATALOGUE), sorted(CATALOGUE))
        self.assertEqual(len(set(QUERIES)), len(QUERIES))

    def test_optionsDiffer(self) -> None:
        for known in CATALOGUE.values():
            options = [key.option for key in known.keys]
            self.assertEqual(len(set(options)), len(options), known.request_type)

    def test_rulesNameKeys(self) -> None:
        for known in CATALOGUE.values():
            paths = {key.path for key in known.keys}
            named = {*known.any_of, *(path for pair in known.needs for path in pair)}
            self.assertEqual(named - paths, set(), known.request_type)

    def test_defaultsAreChoices(self) -> None:
        for known in CATALOGUE.values():
            for key in known.keys:
                if key.choices and key.default is not None:
                    self.assertIn(key.default, key.choices)

    def test_pages(self) -> None:
        """
        No two commands come from the same schema.
        """
        pages = {known.page for known in CATALOGUE.values()}
        self.assertEqual(len(pages), len(CATALOGUE))
        self.assertTrue(CATALOGUE["EraseDevice"].page.endswith("/device.erase.yaml"))

    def test_care(self) -> None:
        self.assertIs(care_of("EraseDevice"), Care.ALWAYS)
        for request_type in ("ClearPasscode", "DeviceLock", "ShutDownDevice", "RemoveProfile"):
            self.assertIs(care_of(request_type), Care.SEVERAL)
        for request_type in ("DeviceInformation", "NeverHeardOf"):
            self.assertIs(care_of(request_type), Care.NEVER)


class KeyTests(SynchronousTestCase):
    """
    How options are called.
    """

    def test_option(self) -> None:
        for path, option in (
            ("PIN", "pin"),
            ("ManifestURL", "manifest-url"),
            ("ManifestURLPinningCerts", "manifest-url-pinning-certs"),
            ("iTunesStoreID", "itunes-store-id"),
            ("eSIMServerURL", "esim-server-url"),
            ("iOSApp", "ios-app"),
            ("Options.PurchaseMethod", "purchase-method"),
            ("passwordHash", "password-hash"),
        ):
            self.assertEqual(Key(path, Kind.TEXT, "").option, option)
        self.assertEqual(Key("A.B", Kind.TEXT, "", option="c").option, "c")
