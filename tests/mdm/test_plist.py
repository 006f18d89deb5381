"""
Tests for L{nanomdm.mdm.plist}.
"""

from __future__ import annotations

import plistlib
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.plist import MAX_DEPTH, NESTED, parse
from tests import samples

XML = b'<?xml version="1.0" encoding="UTF-8"?>'
DOCTYPE = (
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"'
    b' "http://www.apple.com/DTDs/PropertyList-1.0.dtd"'
)


def document(inside: bytes, prolog: bytes = XML) -> bytes:
    """
    A property list around a root value.
    """
    return prolog + b'<plist version="1.0">' + inside + b"</plist>"


def value(xml: bytes) -> bytes:
    """
    A property list whose key C{a} has a value given as XML.
    """
    return document(b"<dict><key>a</key>" + xml + b"</dict>")


def nested(levels: int, innermost: bytes = b"") -> bytes:
    """
    Dictionaries and arrays in turn, C{levels} of them with the root.
    """
    inside = innermost
    for level in reversed(range(1, levels)):
        container = b"array" if level % 2 else b"dict"
        key = b"" if level % 2 or not inside.strip() else b"<key>k</key>"
        inside = b"<" + container + b">" + key + inside + b"</" + container + b">"
    return value(inside)


class Refusals(SynchronousTestCase):
    """
    How a body is refused.
    """

    def refused(self, body: bytes, because: str, keep: int = MAX_DEPTH) -> None:
        """
        Assert that C{body} is refused for a reason.
        """
        error = self.assertRaises(MessageError, parse, body, keep)
        self.assertIn(because, str(error))
        self.assertNotIn("\n", str(error))


class ValueTests(SynchronousTestCase):
    """
    What values become.
    """

    def test_scalars(self) -> None:
        self.assertEqual(
            parse(
                document(
                    b"<dict>"
                    b"<key>s</key><string> text </string>"
                    b"<key>e</key><string/>"
                    b"<key>d</key><data>\n\tAAEC\n\t/w==\n</data>"
                    b"<key>n</key><data/>"
                    b"<key>i</key><integer>-42</integer>"
                    b"<key>p</key><integer> +7\n</integer>"
                    b"<key>r</key><real>-1.5e3</real>"
                    b"<key>t</key><true/>"
                    b"<key>f</key><false></false>"
                    b"<key>at</key><date>\n 2026-11-20T10:00:00Z </date>"
                    b"</dict>"
                )
            ),
            {
                "s": " text ",
                "e": "",
                "d": b"\0\1\2\xff",
                "n": b"",
                "i": -42,
                "p": 7,
                "r": -1500.0,
                "t": True,
                "f": False,
                "at": "2026-11-20T10:00:00Z",
            },
        )

    def test_scalarTypes(self) -> None:
        message = parse(
            document(b"<dict><key>i</key><integer>1</integer><key>t</key><true/></dict>")
        )
        self.assertIs(type(message["i"]), int)
        self.assertIs(message["t"], True)

    def test_integersAtTheEdges(self) -> None:
        for number in (0, 2**63 - 1, -(2**63), 2**64 - 1):
            self.assertEqual(parse(value(b"<integer>%d</integer>" % number)), {"a": number})

    def test_stringMarkup(self) -> None:
        body = value(
            b"<string>&lt;a&gt; &amp;&quot;&apos;&#x41;&#233;<![CDATA[<b>&c;</b>]]>"
            b"<!-- no -->!<?pi no?></string>"
        )
        self.assertEqual(parse(body), {"a": "<a> &\"'Aé<b>&c;</b>!"})

    def test_longString(self) -> None:
        """
        Text longer than expat's buffer comes in pieces.
        """
        text = "äö\N{GRINNING FACE}<&" * 60_000
        self.assertEqual(parse(samples.plist(a=text, b="x")), {"a": text, "b": "x"})

    def test_lineEndings(self) -> None:
        self.assertEqual(parse(value(b"<string>1\r\n2\r3\n</string>")), {"a": "1\n2\n3\n"})

    def test_emptyKey(self) -> None:
        self.assertEqual(parse(document(b"<dict><key/><true/></dict>")), {"": True})

    def test_emptyDictionary(self) -> None:
        self.assertEqual(parse(document(b"<dict/>")), {})

    def test_emptyContainers(self) -> None:
        body = value(b"<array><dict/><array></array></array>")
        self.assertEqual(parse(body), {"a": [{}, []]})

    def test_textBetweenElementsIsIgnored(self) -> None:
        """
        As C{plistlib} and the readers of other servers do.
        """
        body = document(b"x<dict>y<key>a</key>z<array>1<true>2</true>3</array>4</dict>5")
        self.assertEqual(parse(body), {"a": [True]})
        self.assertEqual(parse(body), plistlib.loads(body))

    def test_commentsAndInstructions(self) -> None:
        body = XML + b"<!-- <dict> --><?go on?><plist><dict><!-- - --></dict></plist><!---->\n"
        self.assertEqual(parse(body), {})

    def test_withoutPlistElement(self) -> None:
        self.assertEqual(parse(XML + b"<dict><key>a</key><true/></dict>"), {"a": True})

    def test_doctypeIsAccepted(self) -> None:
        self.assertEqual(parse(document(b"<dict/>", XML + DOCTYPE + b">")), {})

    def test_doesNotKeepTheNested(self) -> None:
        body = document(
            b"<dict><key>a</key><dict><key>b</key><array><true/></array></dict>"
            b"<key>c</key><array><dict/><string>x</string></array><key>d</key><true/></dict>"
        )
        self.assertEqual(parse(body, keep=1), {"a": NESTED, "c": NESTED, "d": True})
        self.assertEqual(parse(body, keep=2), {"a": {"b": NESTED}, "c": [NESTED, "x"], "d": True})
        self.assertEqual(parse(body, keep=3), {"a": {"b": [True]}, "c": [{}, "x"], "d": True})

    def test_sameNamesInTheSkipped(self) -> None:
        """
        Keys of the skipped do not count as keys of the kept.
        """
        body = document(
            b"<dict><key>q</key><dict><key>UDID</key><string>inner</string></dict>"
            b"<key>UDID</key><string>outer</string></dict>"
        )
        self.assertEqual(parse(body, keep=1), {"q": NESTED, "UDID": "outer"})


class PlistlibTests(SynchronousTestCase):
    """
    What is kept equals what C{plistlib} reads.
    """

    def generate(self, random: random.Random, depth: int) -> Any:
        """
        Some value, of all types and odd characters.
        """
        alphabet = "aZ0 \t\n<>&\"']é߿€\N{GRINNING FACE}"
        makers: list[Callable[[], Any]] = [
            lambda: "".join(random.choices(alphabet, k=random.randrange(12))),
            lambda: random.randbytes(random.randrange(80)),
            lambda: random.randrange(-(2**63), 2**64),
            lambda: random.uniform(-1e9, 1e9),
            lambda: random.random() < 0.5,
            lambda: datetime(random.randrange(1970, 2100), 2, 28, random.randrange(24)),
        ]
        if depth:
            makers += 2 * [
                lambda: self.dictionary(random, depth - 1),
                lambda: [self.generate(random, depth - 1) for _ in range(random.randrange(4))],
            ]
        return random.choice(makers)()

    def dictionary(self, random: random.Random, depth: int) -> dict[str, Any]:
        """
        A dictionary of some values.
        """
        return {f"key {n} <&": self.generate(random, depth) for n in range(random.randrange(1, 6))}

    def expected(self, value: Any, keep: int) -> Any:
        """
        What is kept of a value that C{plistlib} has read.
        """
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        if not isinstance(value, (dict, list)):
            return value
        if not keep:
            return NESTED
        if isinstance(value, list):
            return [self.expected(item, keep - 1) for item in value]
        return {key: self.expected(item, keep - 1) for key, item in value.items()}

    def test_sameAsPlistlib(self) -> None:
        seeded = random.Random(7)
        for number in range(300):
            body = plistlib.dumps(self.dictionary(seeded, 4))
            full = plistlib.loads(body)
            for keep in (1, 2, 3, MAX_DEPTH):
                # As text, since 1, 1.0 and True are equal.
                self.assertEqual(
                    repr(parse(body, keep)), repr(self.expected(full, keep)), (number, keep, body)
                )


class EncodingTests(Refusals):
    """
    Bytes that are text, and bytes that are not.
    """

    def test_declaredEncodingIsIgnored(self) -> None:
        for name in (b"UTF-8", b"utf-8", b"iso-8859-1", b"latin-1", b"US-ASCII", b"UTF-16", b"no"):
            prolog = b'<?xml version="1.0" encoding="' + name + b'"?>'
            good = document("<dict><key>é</key><true/></dict>".encode(), prolog)
            self.assertEqual(parse(good), {"é": True})
            self.refused(
                document(b"<dict><key>\xe9</key><true/></dict>", prolog), "not well-formed"
            )

    def test_otherEncodings(self) -> None:
        text = document(b"<dict/>").decode()
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp037"):
            self.refused(text.encode(encoding), "does not begin with <?xml")

    def test_invalidUTF8(self) -> None:
        for raw in (
            b"\x80",
            b"\xc0\xaf",
            b"\xc1\x81",
            b"\xe0\x80\xaf",
            b"\xed\xa0\x80",
            b"\xf0\x80\x80\xaf",
            b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xff",
            b"\xc3",
            b"\xe2\x82",
            b"\xef\xbf\xbf",
        ):
            # In a value, a key, a comment, an attribute, the document type, what is skipped.
            for body in (
                value(b"<string>" + raw + b"</string>"),
                document(b"<dict><key>" + raw + b"</key><true/></dict>"),
                document(b"<dict/><!-- " + raw + b" -->"),
                document(b"<dict a='" + raw + b"'/>"),
                document(b"<dict/>", XML + b'<!DOCTYPE plist SYSTEM "' + raw + b'">'),
                value(b"<array><string>" + raw + b"</string></array>"),
                document(b"<dict/>") + b"<!-- " + raw + b" -->",
            ):
                self.refused(body, "not well-formed XML", keep=1)

    def test_nul(self) -> None:
        for raw in (b"\0", b"&#0;", b"&#x0;"):
            self.refused(value(b"<string>x" + raw + b"</string>"), "not well-formed XML")
            self.refused(
                value(b"<array><string>" + raw + b"</string></array>"), "not well-formed", keep=1
            )
        self.refused(document(b"<dict/>") + b"\0", "not well-formed XML")

    def test_characterReferences(self) -> None:
        for raw in (b"&#xD800;", b"&#xFFFF;", b"&#x110000;", b"&#1;", b"&#99999999999999999999;"):
            self.refused(value(b"<string>" + raw + b"</string>"), "not well-formed XML")

    def test_binary(self) -> None:
        body = plistlib.dumps({"MessageType": "Authenticate"}, fmt=plistlib.FMT_BINARY)
        self.refused(body, "binary property lists are not supported")
        self.refused(b"bplist15", "binary property lists are not supported")

    def test_notXML(self) -> None:
        for body in (b"", b" ", b"\n" + document(b"<dict/>"), b"<plist/>", b'{"a": 1}', b"\0" * 9):
            self.refused(body, "does not begin with <?xml")


class EntityTests(Refusals):
    """
    Nothing in a document makes it larger than it is, or reads anything else.
    """

    def with_declarations(self, declarations: bytes, inside: bytes = b"<dict/>") -> bytes:
        """
        A document with declarations of its own.
        """
        return document(inside, XML + DOCTYPE + b" [" + declarations + b"]>")

    def test_declarations(self) -> None:
        for declarations in (
            b'<!ENTITY a "x">',
            b'<!ENTITY a SYSTEM "file:///etc/passwd">',
            b'<!ENTITY a PUBLIC "p" "http://127.0.0.1/">',
            b'<!ENTITY % a "x">',
            b'<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;',
            b'<!NOTATION n SYSTEM "n"><!ENTITY a SYSTEM "f" NDATA n>',
            b"%undeclared;",
            b'<!ATTLIST true a CDATA "x">',
            b"<!ELEMENT plist ANY>",
        ):
            self.refused(self.with_declarations(declarations), "declarations are not accepted")

    def test_entityBomb(self) -> None:
        bomb = b'<!ENTITY a0 "ha">' + b"".join(
            b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 20)
        )
        body = self.with_declarations(bomb, b"<dict><key>a</key><string>&a19;</string></dict>")
        self.refused(body, "declarations are not accepted")

    def test_attributeBomb(self) -> None:
        """
        A long default attribute would be handed over anew for each element.
        """
        bomb = b'<!ATTLIST true a CDATA "' + b"x" * 2_000_000 + b'">'
        inside = b"<dict><key>a</key><array>" + b"<true/>" * 200_000 + b"</array></dict>"
        self.refused(self.with_declarations(bomb, inside), "declarations are not accepted")

    def test_undeclaredEntity(self) -> None:
        inside = b"<dict><key>a</key><string>&nbsp;</string></dict>"
        self.refused(document(inside), "undefined entity")
        # The document type could declare it, but is never read.
        body = document(inside, XML + DOCTYPE + b">")
        self.refused(body, "entity 'nbsp' is not known")

    def test_undeclaredEntityInTheSkipped(self) -> None:
        inside = b"<dict><key>a</key><array><string>&nbsp;</string></array></dict>"
        body = document(inside, XML + DOCTYPE + b">")
        self.refused(body, "entity 'nbsp' is not known", keep=1)


class StructureTests(Refusals):
    """
    Documents that are no property lists.
    """

    def test_truncated(self) -> None:
        """
        A captured message cut off after any byte.
        """
        body = samples.captured("TokenUpdate.1.plist").rstrip()
        for length in range(len(body)):
            self.assertRaises(MessageError, parse, body[:length], 1)
        self.assertIn("Token", parse(body))

    def test_trailing(self) -> None:
        for rest in (b"x", b"<dict/>", b"<plist/>", document(b"<dict/>"), b"</plist>", b"&amp;"):
            self.refused(document(b"<dict/>") + rest, "not well-formed XML")

    def test_notADictionary(self) -> None:
        for inside in (
            b"",
            b"text",
            b"<array/>",
            b"<array><dict/></array>",
            b"<string>MessageType</string>",
            b"<true/>",
        ):
            self.refused(document(inside), "the property list is not a dictionary", keep=1)

    def test_severalRoots(self) -> None:
        self.refused(document(b"<dict/><dict/>"), "more than one outermost value")
        self.refused(document(b"<dict/><string/>"), "more than one outermost value")
        self.refused(document(b"<true/><dict/>"), "more than one outermost value")
        self.refused(document(b"<dict/><key>a</key>"), "<key> outside a dictionary")

    def test_plistOnlyOutermost(self) -> None:
        for keep in (1, MAX_DEPTH):
            for inside in (
                b"<plist><dict/></plist>",
                b"<dict/><plist/>",
                b"<dict><plist/></dict>",
                b"<dict><key>a</key><plist/></dict>",
                b"<dict><key>a</key><array><plist/></array></dict>",
            ):
                self.refused(document(inside), "<plist> has no place in a property list", keep)

    def test_unknownElements(self) -> None:
        for keep in (1, MAX_DEPTH):
            for name in (b"null", b"DICT", b"a:dict", b"html", b"x" * 1000):
                shown = f"<{name.decode()[:32]}> has no place in a property list"
                self.refused(value(b"<" + name + b"/>"), shown, keep)
                self.refused(value(b"<array><" + name + b"/></array>"), shown, keep)
        self.refused(XML + b"<html/>", "<html> has no place in a property list")

    def test_elementsInsideScalars(self) -> None:
        for keep in (1, MAX_DEPTH):
            for inside, because in (
                (b"<string>a<string/></string>", "<string> inside <string>"),
                (b"<string><b/></string>", "<b> inside <string>"),
                (b"<true><dict/></true>", "<dict> inside <true>"),
                (b"<integer>1<array/></integer>", "<array> inside <integer>"),
            ):
                self.refused(value(inside), because, keep)
                self.refused(value(b"<array>" + inside + b"</array>"), because, keep)
        self.refused(document(b"<dict><key>a<key/></key></dict>"), "<key> inside <key>")

    def test_missingValue(self) -> None:
        self.refused(document(b"<dict><key>a</key></dict>"), "key 'a' has no value")
        self.refused(document(b"<dict><key>a</key><key>b</key></dict>"), "key 'a' has no value")
        self.refused(document(b"<dict><key></key></dict>"), "key '' has no value")

    def test_missingKey(self) -> None:
        for inside in (b"<true/>", b"<dict/>", b"<key>a</key><true/><true/>"):
            for keep in (1, MAX_DEPTH):
                self.refused(document(b"<dict>" + inside + b"</dict>"), "has no key", keep)

    def test_keyOutsideADictionary(self) -> None:
        self.refused(document(b"<key>a</key>"), "<key> outside a dictionary")
        self.refused(value(b"<array><key>a</key></array>"), "<key> outside a dictionary")

    def test_duplicateKeys(self) -> None:
        body = document(b"<dict><key>a</key><true/><key>a</key><true/></dict>")
        self.refused(body, "key 'a' occurs twice", keep=1)
        body = document(b"<dict><key>a</key><dict/><key>&#97;</key><true/></dict>")
        self.refused(body, "key 'a' occurs twice", keep=1)

    def test_longKeyIsCutInTheMessage(self) -> None:
        key = b"k" * 10_000
        body = document(b"<dict><key>" + key + b"</key></dict>")
        error = self.assertRaises(MessageError, parse, body)
        self.assertLess(len(str(error)), 100)

    def test_longTags(self) -> None:
        """
        A tag, a comment or the like can not be so long that it would hold the reader up;
        text can.
        """
        long = 1 << 18
        attributes = b" ".join(b"a%d=''" % number for number in range(long // 4))
        for inside in (
            b"<string %s/>" % attributes,
            b"<string a='%s'/>" % (b"b" * long),
            b"<%s/>" % (b"b" * long),
            b"<!--%s--><true/>" % (b"b" * long),
            b"<?b %s?><true/>" % (b"b" * long),
            b"<" + b"b" * long,
        ):
            for keep in (0, MAX_DEPTH):
                self.refused(value(inside), "a tag or comment has more than 65536 bytes", keep)
        doctype = b'<!DOCTYPE plist SYSTEM "%s">' % (b"b" * long)
        self.refused(document(b"<dict/>", XML + doctype), "a tag or comment has more than")
        for inside in (b"b" * long, b"<![CDATA[%s]]>" % (b"b" * long), b"<!---->" * long):
            parse(value(b"<string>%s</string>" % inside + b" " * long) + b"\n" * long)

    def test_depth(self) -> None:
        """
        The limit is the same whether values are kept or skipped.
        """
        for innermost in (b"", b" "):
            for keep in (1, 2, MAX_DEPTH - 1, MAX_DEPTH):
                parse(nested(MAX_DEPTH, innermost), keep)
                self.refused(
                    nested(MAX_DEPTH + 1, innermost), f"nested deeper than {MAX_DEPTH}", keep
                )

    def test_depthWithScalarsAtTheBottom(self) -> None:
        self.assertEqual(MAX_DEPTH % 2, 0)
        for keep in (1, 2, MAX_DEPTH):
            parse(nested(MAX_DEPTH, b"<string>x</string>"), keep)
            self.refused(nested(MAX_DEPTH + 1, b"<string/>"), "nested deeper", keep)

    def test_depthIsCountedForEachBranch(self) -> None:
        """
        Many containers next to each other are not deep.
        """
        for keep in (1, 2, MAX_DEPTH):
            parse(
                value(b"<array>" + b"<array><dict/></array>" * (MAX_DEPTH * 2) + b"</array>"), keep
            )

    def test_veryDeep(self) -> None:
        for keep in (1, MAX_DEPTH):
            self.refused(value(b"<array>" * 200_000), "nested deeper than", keep)


class MalformedScalarTests(Refusals):
    """
    Scalars that do not say what their element promises.
    """

    def test_integers(self) -> None:
        for text in (
            *(b"", b" ", b"-", b"1.0", b"0x10", b"1e3", b"1_000", b"1 2", b"--1", b"one"),
            *(b"9" * 21, b"9" * 100_000, b"-" + b"9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}".encode()),
        ):
            body = value(b"<integer>" + text + b"</integer>")
            self.refused(body, "not an integer")
            self.assertLess(len(str(self.assertRaises(MessageError, parse, body))), 100)

    def test_reals(self) -> None:
        for text in (b"", b"one", b"1,5", b"1e", b"0x1p3", b"1" * 100_000 + b"x"):
            body = value(b"<real>" + text + b"</real>")
            self.refused(body, "not a real number")
            self.assertLess(len(str(self.assertRaises(MessageError, parse, body))), 100)

    def test_hugeReal(self) -> None:
        self.assertEqual(parse(value(b"<real>1e999</real>")), {"a": float("inf")})

    def test_data(self) -> None:
        for text in (
            b"A",
            b"AAA",
            b"A===",
            b"AA==AA==",
            b"AA=A",
            b"A-_A",
            b"<![CDATA[<>]]>",
            b"==",
        ):
            self.refused(value(b"<data>" + text + b"</data>"), "<data> is not base64")
        self.refused(value("<data>é</data>".encode()), "<data> is not base64")

    def test_dates(self) -> None:
        for text in (
            *(b"", b"now", b"2026-11-20", b"2026-11-20T10:00:00", b"2026-11-20T10:00:00+00:00"),
            *(b"2026-11-20T10:00:00.5Z", b"20261120T100000Z", b"2026-11-20T10:00:00Z!"),
            "202\N{ARABIC-INDIC DIGIT SIX}-11-20T10:00:00Z".encode(),
        ):
            self.refused(value(b"<date>" + text + b"</date>"), "not a date")
