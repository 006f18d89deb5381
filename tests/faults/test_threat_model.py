"""
What SECURITY.md says of certificates that the CA of the devices issued, and that are not
associated with a device yet: they are worth something.
"""

from __future__ import annotations

import base64

from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.faults.process_case import ProcessCase, basic
from tests.http.case import CHECKIN, KEY, RESULT, device

#: Certificates of D1, and of somebody who has got one from the CA.
OWN, FREE = 1, 9


class FreeCertificateTests(ProcessCase):
    """
    Somebody with a free certificate who knows the UDID of a device.
    """

    async def setUp_device(self, *options: str) -> None:
        """
        D1 has a bootstrap token, and a command waits for it.
        """
        daemon = self.start("--superseded-identity-grace=0", *options)
        self.port = await daemon.listening
        await self.enroll(self.port, "D1", OWN)
        token = samples.checkin("SetBootstrapToken", BootstrapToken=b"bootstrap")
        await self.send(self.port, token, CHECKIN, OWN)
        await self.enqueue(self.port, "D1", "C1")

    async def answer(self, number: int, body: bytes, content_type: str = CHECKIN) -> bytes | int:
        """
        @return: the body of the answer, or its status if it is not 200.
        """
        signature = sign_like_device(device(number), body).decode()
        headers = [("Content-Type", content_type), ("Mdm-Signature", signature)]
        answer = await self.ask("PUT", "/mdm", body, headers)
        return answer.body if answer.code == 200 else answer.code

    async def take_over(self) -> None:
        for body in (samples.authenticate("D1"), samples.token_update("D1")):
            self.assertEqual(await self.answer(FREE, body), b"")

    async def test_cannotSpeakAtOnce(self) -> None:
        """
        Anything but an enrollment is refused, and so is an association by C{--retro}, as
        D1 has a certificate.
        """
        await self.setUp_device("--retro")
        for body in (samples.checkin("GetBootstrapToken"), samples.token_update("D1")):
            self.assertEqual(await self.answer(FREE, body), 400)
        self.assertEqual(await self.answer(FREE, samples.report("Idle"), RESULT), 400)

    async def test_takesTheEnrollment(self) -> None:
        """
        It gets what comes from now on, and nothing from before; D1 itself is refused.
        """
        await self.setUp_device()
        await self.take_over()
        self.assertEqual(await self.answer(FREE, samples.checkin("GetBootstrapToken")), b"")
        self.assertEqual(await self.answer(FREE, samples.report("Idle"), RESULT), b"")
        self.assertEqual(await self.answer(OWN, samples.report("Idle"), RESULT), 400)
        await self.enqueue(self.port, "D1", "C2")
        command = await self.answer(FREE, samples.report("Idle"), RESULT)
        self.assertEqual(samples.uuid_of(command), "C2")

    async def test_whileRenewing(self) -> None:
        """
        While a renewal of the profile is outstanding, it also gets what D1 had.
        """
        await self.setUp_device()
        renewal = samples.install_mdm_profile("R1")
        target = "/v1/enqueue/D1?nopush=1"
        queued = await self.ask("PUT", target, renewal, basic("nanomdm", KEY))
        self.assertEqual(queued.code, 200)
        await self.take_over()
        answer = await self.answer(FREE, samples.checkin("GetBootstrapToken"))
        self.assertIn(base64.b64encode(b"bootstrap"), answer)
        command = await self.answer(FREE, samples.report("Idle"), RESULT)
        self.assertEqual(samples.uuid_of(command), "C1")

    async def test_replay(self) -> None:
        """
        A signature is over the body alone: who has seen a request can send it again.
        """
        await self.setUp_device()
        idle = samples.report("Idle")
        for _ in range(2):
            self.assertEqual(samples.uuid_of(await self.answer(OWN, idle, RESULT)), "C1")
