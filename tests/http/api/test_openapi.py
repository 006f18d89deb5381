"""
The OpenAPI document against the server: schemathesis asks it what the document says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema_rs import Draft202012Validator
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from nanomdm import __version__
from nanomdm.http.api.enrollments import _BELOW
from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.endpoint import Folder, Missing
from nanomdm.sim.apns import SimulatedAPNs
from nanomdm.sim.apns_script import Respond
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import CHECKIN, KEY, RESULT, Answer, ClientCase, ServerCase, ca, device
from tests.process import DaemonProcess
from tests.web import WebServer, listen

_ROOT = Path(__file__).parent.parent.parent.parent
_CONFIG = Path(__file__).with_name("openapi.toml")
_DOCUMENT = _ROOT / "nanomdm" / "http" / "api" / "openapi.yaml"

#: What the document has as examples.
DEVICE = "66ADE930-5FDF-5EC4-8429-15640684C489"
TOPIC = "com.apple.mgmt.External.f0e1d2c3-0000-4000-8000-000000000000"

#: The device's push token, which APNs refuses.
TOKEN = samples.TOKEN

#: Enrollments, and commands, that may be lost.
SPARE = 40

#: The lists whose cursors are made of text, by operation.
LISTS = {
    "listEnrollments": "/v1/enrollments",
    "listQueue": f"/v1/enrollments/{DEVICE}/queue",
    "listResults": f"/v1/enrollments/{DEVICE}/results",
    "getCommand": "/v1/commands/0001_DeviceInformation",
}


def document() -> dict[str, Any]:
    """
    The document.
    """
    parsed: dict[str, Any] = yaml.safe_load(_DOCUMENT.read_bytes())
    return parsed


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    @return: path, method and description of each operation.
    """
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method.upper(), operation


class DocumentTests(SynchronousTestCase):
    """
    The document by itself.
    """

    def test_version(self) -> None:
        self.assertEqual(document()["info"]["version"], __version__)

    def test_inTheDocumentation(self) -> None:
        link = _ROOT / "docs" / "openapi.yaml"
        self.assertTrue(link.is_symlink())
        self.assertFalse(link.readlink().is_absolute())
        self.assertEqual(link.resolve(), _DOCUMENT.resolve())

    def test_onlyWhatJSONHas(self) -> None:
        """
        Anchors and merged keys are not for every reader of OpenAPI.
        """
        self.assertEqual(re.findall(r"(?m)(?:: |- )[&*]\w+$|<<:", _DOCUMENT.read_text()), [])

    def test_tags(self) -> None:
        tags = {tag["name"] for tag in document()["tags"]}
        self.assertEqual({one for *_, each in operations() for one in each["tags"]}, tags)

    def test_examplesAreValid(self) -> None:
        components = document()["components"]
        count = 0
        for schema, value in examples(document()):
            Draft202012Validator({**schema, "components": components}).validate(value)
            count += 1
        self.assertTrue(count > 30)


def examples(part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """
    @return: all examples below a part of the document, each with its schema.
    """
    if isinstance(part, dict):
        if "schema" in part and "example" in part:
            yield part["schema"], part["example"]
        if "schema" in part and "examples" in part:
            for one in part["examples"].values():
                yield part["schema"], one["value"]
        for value in part.values():
            yield from examples(value)
    elif isinstance(part, list):
        for value in part:
            yield from examples(value)


class RouteTests(ServerCase):
    """
    The document and the tree of resources.
    """

    def setUp(self) -> None:
        self.serve(checkin=True, migration=True, auth_proxy_url="http://127.0.0.1:9/")
        self.routes = dict(walk(self.site.resource, ""))

    def test_everyRoute(self) -> None:
        paths = {re.sub(r"{\w+}", "{}", path): path for path in document()["paths"]}
        self.assertEqual(set(self.routes), set(paths))
        for path, endpoint in self.routes.items():
            # In the metrics some are without what follows.
            self.assertIn(endpoint.route, (paths[path], paths[path].rpartition("/")[0]))

    def test_everyMethodAndRole(self) -> None:
        documented: dict[str, dict[str, str]] = {}
        for path, method, operation in operations():
            role = re.search(r"Takes the role `(\w+)`", operation["description"])
            of_path = documented.setdefault(re.sub(r"{\w+}", "{}", path), {})
            if role:
                of_path[method] = role[1]
        guarded = {
            path: {
                method.decode(): role.word
                for method, role in endpoint.methods.items()
                if method != b"HEAD"
            }
            for path, endpoint in self.routes.items()
            if isinstance(endpoint, GuardedEndpoint)
        }
        self.assertEqual(guarded, {path: roles for path, roles in documented.items() if roles})

    async def test_served(self) -> None:
        """
        Anybody gets it.
        """
        answer = await self.request("GET", "/v1/openapi.yaml")
        self.assertOK(answer, _DOCUMENT.read_bytes())
        self.assertEqual(answer.header("Content-Type"), "application/yaml")
        answer = await self.request("PUT", "/v1/openapi.yaml")
        self.assertEqual((answer.code, answer.header("Allow")), (405, "GET, HEAD"))


def walk(resource: Resource, path: str) -> Iterator[tuple[str, Resource]]:
    """
    @return: the path of each endpoint, with C{{}} for a name that may be any.
    """
    if resource.isLeaf:
        yield f"{path}/{{}}", resource
        return
    if not isinstance(resource, Folder):
        yield path, resource
    for name, child in resource.children.items():
        yield from walk(child, f"{path}/{name.decode()}")
    anything = resource.getChild(b"anything", None)
    if not isinstance(anything, Missing):
        yield from walk(anything, f"{path}/{{}}")
    for name in _BELOW:
        child = resource.getChild(name, None)
        if not isinstance(child, (Missing, type(anything))):
            yield from walk(child, f"{path}/{name.decode()}")


class ConformanceTests(ClientCase):
    """
    A daemon with devices, commands, answers, failed events, and pushes that fail.
    """

    timeout = 240

    async def test_schemathesis(self) -> None:
        """
        It finds nothing, and every operation succeeds at least once.
        """
        daemon = await self.start()
        await self.fill()
        code, output = await self.run_schemathesis()
        self.assertEqual(code, 0, output)
        self.assertNotIn(b'msg="unexpected error"', daemon.output)
        self.assertEqual(self.never_succeeded(), set())

    async def start(self) -> DaemonProcess:
        """
        Start everything.
        """
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        apns = SimulatedAPNs(reactor, ca(), latency=0)
        apns.script(TOKEN.hex(), Respond(400, "BadDeviceToken"))
        await apns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(apns.stop()))
        receiver = WebServer()
        receiver.status = 500
        (self.directory / "ca.pem").write_bytes(ca().pem)
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            *("--storage-dsn", str(self.directory / "test.db"), "--api-secrets=1"),
            *("--apns-url", apns.url, "--apns-ca", str(self.directory / "ca.pem")),
            *("--webhook-url", f"http://127.0.0.1:{listen(self, receiver)}/"),
            *("--webhook-max-age=0", "--checkin", "--migration"),
            *("--auth-proxy-url", f"http://127.0.0.1:{listen(self, WebServer())}/"),
            *("--escrow-key-unlock-url", f"http://127.0.0.1:{listen(self, WebServer())}/"),
            NANOMDM_API=KEY,
        )
        self.port = await daemon.listening
        self.addCleanup(daemon.signal, signal.SIGTERM)
        return daemon

    async def fill(self) -> None:
        """
        Let devices enroll, and commands be enqueued and answered.
        """
        issued = ca().issue_push(TOPIC)
        (self.directory / "push.pem").write_bytes(issued.pem + issued.key_pem)
        (self.directory / "device.pem").write_bytes(device().pem)
        (self.directory / "device.key").write_bytes(device().key_pem)
        await self.ok("PUT", "/v1/pushcert", issued.pem + issued.key_pem)
        await self.enroll()
        for name in ("queue", *(f"spare-{number}" for number in range(SPARE))):
            await self.ok("PUT", "/migration", samples.authenticate(name, Topic=TOPIC))
            await self.ok("PUT", "/migration", samples.token_update(name, Topic=TOPIC, Token=b"\1"))
        for number in range(SPARE):
            await self.enqueue(f"spare-{number}", "ProfileList")
        command = samples.command("0001_DeviceInformation")
        await self.ok("PUT", "/v1/enqueue/queue?nopush=1", command)
        cursors = {operation: await self.cursor(path) for operation, path in LISTS.items()}
        scene = {"device": DEVICE, "topic": TOPIC, "spare": SPARE, "cursors": cursors}
        (self.directory / "scene.json").write_text(json.dumps(scene))

    async def enroll(self) -> None:
        """
        Enroll the document's device with a user, and let it answer.
        """
        model = {"SerialNumber": "C02ABCDEFGH", "Model": "MacBookPro18,3", "OSVersion": "26.1"}
        await self.check_in(samples.authenticate(DEVICE, Topic=TOPIC, **model))
        await self.check_in(samples.token_update(DEVICE, Topic=TOPIC, UnlockToken=b"unlock"))
        user = {"UserID": "U1", "UserShortName": "ada", "UserLongName": "Ada Example"}
        await self.check_in(samples.token_update(DEVICE, Topic=TOPIC, **user))
        await self.check_in(samples.checkin("SetBootstrapToken", DEVICE, BootstrapToken=b"token"))
        chain = [
            {
                "ErrorCode": 4001,
                "ErrorDomain": "MCInstallationErrorDomain",
                "USEnglishDescription": "The profile could not be installed.",
            }
        ]
        await self.enqueue("0001_DeviceInformation", "DeviceInformation")
        await self.report("Acknowledged", "0001_DeviceInformation", QueryResponses={"A": b"b"})
        await self.enqueue("0002_InstallProfile", "InstallProfile")
        await self.report("Error", "0002_InstallProfile", ErrorChain=chain)
        await self.enqueue("0003_Restart", "RestartDevice")
        await self.report("NotNow", "0003_Restart")

    async def check_in(self, body: bytes) -> None:
        """
        Send a check-in message.
        """
        self.assertEqual((await self.sign("/checkin", body, CHECKIN)).code, 200)

    async def report(self, status: str, uuid: str, **more: Any) -> None:
        """
        Answer a command.
        """
        body = samples.report(status, uuid, DEVICE, **more)
        self.assertEqual((await self.sign("/mdm", body, RESULT)).code, 200)

    async def sign(self, path: str, body: bytes, content_type: str) -> Answer:
        """
        Send something as the device.
        """
        signature = sign_like_device(device(), body).decode()
        headers = {"Mdm-Signature": signature, "Content-Type": content_type}
        return await self.request("PUT", path, body, headers)

    async def enqueue(self, uuid: str, request_type: str) -> None:
        """
        Enqueue a command for the device.
        """
        body = samples.command(uuid, request_type)
        await self.ok("PUT", f"/v1/enqueue/{DEVICE}?nopush=1", body)

    async def cursor(self, path: str) -> str:
        """
        @return: where the second part of a list begins.
        """
        answer = await self.api("GET", f"{path}?limit=1")
        self.assertEqual(answer.code, 200, answer.body)
        return answer.json["next_cursor"]

    async def ok(self, method: str, path: str, body: bytes) -> None:
        """
        Ask as an operator.
        """
        answer = await self.api(method, path, body)
        self.assertEqual(answer.code, 200, answer.body)

    def never_succeeded(self) -> set[str]:
        """
        @return: operations that had no good answer, for which nothing was found out.
        """
        answers = [line.split() for line in (self.directory / "answers").read_text().splitlines()]
        good = {operation for operation, status in answers if status[0] == "2"}
        # It leaves out where it had the document from.
        return {one["operationId"] for _, _, one in operations()} - good - {"getOpenAPI"}

    async def run_schemathesis(self) -> tuple[int, str]:
        """
        @return: its exit status and what it said.
        """
        url = f"http://127.0.0.1:{self.port}"
        arguments = [
            *("-m", "schemathesis.cli", "--config-file", str(_CONFIG), "run"),
            *(f"{url}/v1/openapi.yaml", "--url", url, "--auth", f"nanomdm:{KEY}"),
            *("--max-examples", "12", "--no-color"),
        ]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            # What it keeps, goes with the test.
            "HOME": str(self.directory),
            "PYTHONPATH": str(_ROOT),
            "NANOMDM_TEST_SCENE": str(self.directory),
        }
        out, errors, code = await getProcessOutputAndValue(
            sys.executable, arguments, environment, str(self.directory)
        )
        return code, (out + errors).decode()
