"""
Tests for L{nanomdm.openfiles}.
"""

from __future__ import annotations

import resource
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm import openfiles
from nanomdm.http.limits import MAX_REFUSED
from nanomdm.openfiles import Room, files_needed, raise_limit, room_for

UNLIMITED = resource.RLIM_INFINITY


class RaiseTests(SynchronousTestCase):
    """
    Tests for L{raise_limit}.
    """

    def assertRaised(self, before: tuple[int, int], after: tuple[int, int] | None) -> None:
        """
        The limit is changed, or not at all.
        """
        changes: list[tuple[int, int]] = []
        self.patch(openfiles.resource, "getrlimit", lambda which: before)
        self.patch(openfiles.resource, "setrlimit", lambda which, limits: changes.append(limits))
        limit = raise_limit(5000)
        self.assertEqual(changes, [] if after is None else [after])
        self.assertEqual(limit, 5000 if after is None else after[0])

    def test_enough(self) -> None:
        self.assertRaised((5000, 5000), None)
        self.assertRaised((UNLIMITED, UNLIMITED), None)

    def test_raised(self) -> None:
        """
        As far as it is needed or allowed, and never beyond what the process was given.
        """
        self.assertRaised((1024, 524_288), (5000, 524_288))
        self.assertRaised((1024, UNLIMITED), (5000, UNLIMITED))
        self.assertRaised((1024, 4096), (4096, 4096))

    def test_refused(self) -> None:
        def refuse(*arguments: Any) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.patch(openfiles.resource, "getrlimit", lambda which: (256, UNLIMITED))
        self.patch(openfiles.resource, "setrlimit", refuse)
        self.assertEqual(raise_limit(5000), 256)


class RoomTests(SynchronousTestCase):
    """
    Tests for L{room_for}.
    """

    def test_enough(self) -> None:
        for connections in (1, 100, 10_000, 1_000_000):
            room = room_for(connections, files_needed(connections))
            self.assertEqual(room, Room(connections, MAX_REFUSED))

    def test_few(self) -> None:
        """
        Clients leave a quarter of the files to the server, or 1,000, and none are there
        for nobody.
        """
        self.assertEqual(room_for(10_000, 1024), Room(640, 128))
        self.assertEqual(room_for(10_000, 64), Room(40, 8))
        self.assertEqual(room_for(10_000, 10_000), Room(8000, 1000))
        self.assertEqual(room_for(10, 1024), Room(10, 128))

    def test_more(self) -> None:
        """
        More files never mean fewer connections.
        """
        served = [room_for(10_000, files).connections for files in range(16, 16_384)]
        self.assertEqual(served, sorted(served))
        self.assertEqual(served[-1], 10_000)
