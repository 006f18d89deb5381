"""
C{/v1/enrollments/<id>/results}, over HTTP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.python.threadable import isInIOThread

from nanomdm.errors import MessageError, Unknown
from nanomdm.http.api import results
from nanomdm.interfaces import CommandAnswer, Listing, Page, ResultFilter
from tests import samples
from tests.http.api.fakes import SECONDS, ScriptedCase, basic
from tests.http.case import KEY


def answered(status: str = "Acknowledged", raw: bytes | None = None, **more: Any) -> CommandAnswer:
    """
    What was answered half a minute ago.
    """
    known: dict[str, Any] = {
        "command_uuid": "C1",
        "request_type": "DeviceInformation",
        "answered_at": SECONDS - 30,
        "not_now_at": None,
        "not_now_count": 0,
    }
    return CommandAnswer(status=status, raw=raw, **{**known, **more})


def failed(*chain: Any) -> bytes:
    """
    An answer with an error.
    """
    return samples.report("Error", "C1", ErrorChain=list(chain))


SHOWN = {
    "command_uuid": "C1",
    "request_type": "DeviceInformation",
    "status": "Acknowledged",
    "answered_at": "2026-11-20T09:59:30Z",
}


class ListTests(ScriptedCase):
    """
    The list.
    """

    async def shown(self, *answers: CommandAnswer) -> Any:
        """
        @return: what the API makes of answers.
        """
        self.store.answers["list_results"] = Listing(answers)
        answer = await self.api("GET", "/v1/enrollments/D1/results")
        self.assertEqual(answer.code, 200)
        return answer.json["results"]

    async def test_list(self) -> None:
        self.store.answers["list_results"] = Listing(
            [
                answered(),
                answered("NotNow", not_now_at=SECONDS - 60, not_now_count=2),
                answered(
                    "Error",
                    failed(
                        {
                            "ErrorCode": 12021,
                            "ErrorDomain": "MCMDMErrorDomain",
                            "LocalizedDescription": "Unbekannt",
                            "USEnglishDescription": "Unknown command",
                        },
                        {"ErrorCode": -1, "LocalizedDescription": "Kaputt"},
                    ),
                ),
            ],
            "more",
        )
        answer = await self.api("GET", "/v1/enrollments/D1:a%2Fb/results?limit=3")
        self.assertEqual(answer.code, 200)
        self.assertEqual(self.store.asked, [("list_results", "D1:a/b", ResultFilter(), Page(3))])
        self.assertEqual(
            answer.json,
            {
                "results": [
                    SHOWN,
                    {**SHOWN, "status": "NotNow", "not_now_count": 2},
                    {
                        **SHOWN,
                        "status": "Error",
                        "errors": [
                            {
                                "code": 12021,
                                "domain": "MCMDMErrorDomain",
                                "description": "Unknown command",
                            },
                            {"code": -1, "description": "Kaputt"},
                        ],
                    },
                ],
                "next_cursor": "more",
            },
        )

    async def test_empty(self) -> None:
        self.store.answers["list_results"] = Listing([])
        answer = await self.api("GET", "/v1/enrollments/D1/results")
        self.assertOK(answer, b'{\n\t"results": []\n}\n')

    async def test_filters(self) -> None:
        self.store.answers["list_results"] = Listing([])
        for query, expected in (
            ("request_type=DeviceInformation", {"request_type": "DeviceInformation"}),
            ("status=Error", {"status": "Error"}),
            ("since=2026-11-20T09:00:00Z", {"since": 3600.0}),
            ("since=7d&status=NotNow", {"since": 604800.0, "status": "NotNow"}),
        ):
            self.store.asked.clear()
            answer = await self.api("GET", f"/v1/enrollments/D1/results?{query}&cursor=x")
            self.assertEqual(answer.code, 200)
            expected_call = ("list_results", "D1", ResultFilter(**expected), Page(100, "x"))
            self.assertEqual(self.store.asked, [expected_call])

    async def test_oddErrors(self) -> None:
        """
        Whatever a device says, the list can be shown.
        """
        for raw in (
            *(None, b"", b"x", samples.report("Error", "C1"), failed(), failed(1, {}, [{}])),
            failed({"ErrorCode": "1", "ErrorDomain": 1, "LocalizedDescription": []}),
            failed({"ErrorCode": True, "ErrorDomain": "", "USEnglishDescription": ""}),
            samples.report("Error", "C1", ErrorChain={"ErrorCode": 1}),
            failed({"ErrorCode": 1})[:-10],
        ):
            [one] = await self.shown(answered("CommandFormatError", raw))
            self.assertEqual(one, {**SHOWN, "status": "CommandFormatError"}, raw)
        raw = failed({"ErrorCode": 5, "ErrorDomain": {}, "USEnglishDescription": "<\u00e4>"})
        [one] = await self.shown(answered("CommandFormatError", raw))
        self.assertEqual(one["errors"], [{"code": 5, "description": "<\u00e4>"}])
        # What went well has no errors, even if it says so.
        self.assertEqual(await self.shown(answered("Acknowledged", raw)), [SHOWN])

    async def test_large(self) -> None:
        threads = []

        def noting(work: Any, *arguments: Any) -> Any:
            threads.append(isInIOThread())
            return work(*arguments)

        self.patch(results, "_errors", partial(noting, results._errors))
        raw = failed({"ErrorCode": 1, "ErrorDomain": "x" * 20_000})
        [one] = await self.shown(answered("Error", raw))
        self.assertEqual(len(one["errors"][0]["domain"]), 20_000)
        await self.shown(answered("Error", failed({"ErrorCode": 1})))
        await self.shown(*[answered("Error", b"")] * 100)
        self.assertEqual(threads, [False, True] + [False] * 100)

    async def test_refused(self) -> None:
        for query, reason in (
            ("type=x", "unknown parameter 'type'"),
            ("since=yesterday", "since: 'yesterday' is no time"),
            ("status=", "status has no value"),
            ("limit=0", "limit"),
        ):
            await self.assertBad("GET", f"/v1/enrollments/D1/results?{query}", reason)
        for error, code in ((Unknown("no such enrollment"), 404), (MessageError("no cursor"), 400)):
            self.store.answers["list_results"] = error
            answer = await self.api("GET", "/v1/enrollments/D1/results")
            self.assertEqual((answer.code, answer.json), (code, {"error": str(error)}))

    async def test_operatorsOnly(self) -> None:
        for path in ("/v1/enrollments/D1/results", "/v1/enrollments/D1/results/C1"):
            self.assertEqual((await self.request("GET", path)).code, 401)
            for method in ("DELETE", "POST", "PUT", "HEAD"):
                answer = await self.api(method, path)
                self.assertEqual((answer.code, answer.header("Allow")), (405, "GET"))
        self.assertEqual(self.store.asked, [])


class ResultTests(ScriptedCase):
    """
    One answer.
    """

    path = "/v1/enrollments/D1:jo/results/C%2F1"

    async def test_result(self) -> None:
        raw = samples.report("Acknowledged", "C1", QueryResponses={"OSVersion": "26.1"})
        self.store.answers["result"] = answered(raw=raw, not_now_count=1)
        answer = await self.api("GET", self.path)
        self.assertEqual(answer.code, 200)
        self.assertEqual(self.store.asked, [("result", "D1:jo", "C/1")])
        self.assertEqual(
            answer.json,
            {
                **SHOWN,
                "not_now_count": 1,
                "result": {
                    "Status": "Acknowledged",
                    "CommandUUID": "C1",
                    "UDID": "D1",
                    "QueryResponses": {"OSVersion": "26.1"},
                },
            },
        )

    async def test_raw(self) -> None:
        raw = samples.report("Acknowledged", "C1")
        self.store.answers["result"] = answered(raw=raw)
        headers = {"Authorization": basic("nanomdm", KEY), "Accept": "text/xml"}
        answer = await self.request("GET", self.path, None, headers)
        self.assertOK(answer, raw)
        self.assertEqual(answer.header("Content-Type"), "text/xml; charset=utf-8")
        self.assertIn("sandbox", answer.header("Content-Security-Policy"))

    async def test_error(self) -> None:
        raw = failed({"ErrorCode": 1, "ErrorDomain": "d"})
        self.store.answers["result"] = answered("Error", raw)
        shown = (await self.api("GET", self.path)).json
        self.assertEqual(shown["errors"], [{"code": 1, "domain": "d"}])
        self.assertEqual(shown["result"]["ErrorChain"], [{"ErrorCode": 1, "ErrorDomain": "d"}])

    async def test_unreadable(self) -> None:
        for raw in (None, b"", b"x", b"<?xml version='1.0'?><plist>"):
            self.store.answers["result"] = answered(raw=raw)
            shown = (await self.api("GET", self.path)).json
            self.assertTrue(shown.pop("unreadable"))
            self.assertEqual(shown, SHOWN)

    async def test_large(self) -> None:
        """
        As large as a column can hold, and not read on the reactor's thread.
        """
        threads = []
        work = results._whole

        def noting(*arguments: Any) -> Any:
            threads.append(isInIOThread())
            return work(*arguments)

        self.patch(results, "_whole", noting)
        apps = [{"Name": f"{number}" + "x" * 220} for number in range(60_000)]
        raw = samples.report("Acknowledged", "C1", InstalledApplicationList=apps)
        self.assertGreater(len(raw), 15 << 20)
        self.store.answers["result"] = answered(raw=raw)
        answer = await self.api("GET", self.path)
        self.assertEqual(answer.json["result"]["InstalledApplicationList"], apps)
        self.assertEqual(threads, [False])

    async def test_refused(self) -> None:
        await self.assertBad("GET", f"{self.path}?limit=1", "unknown parameter 'limit'")
        await self.assertBad("GET", "/v1/enrollments/D1/results/%FF", "command_uuid: not UTF-8")
        self.store.answers["result"] = Unknown("it was not answered")
        answer = await self.api("GET", self.path)
        self.assertEqual((answer.code, answer.json), (404, {"error": "it was not answered"}))
