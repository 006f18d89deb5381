"""
How long verifying C{Mdm-Signature} takes: C{python bench/signature.py}.

Prints microseconds for each request, the best of several rounds.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from asn1crypto import cms

from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.signing import sign_like_device

ROUNDS = 5
REQUESTS = 1000
BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict><key>Status</key>'
    b"<string>Idle</string><key>UDID</key><string>%036d</string></dict></plist>\n"
)


def best(work: Callable[[], object], calls: int) -> float:
    """
    @return: microseconds for each of the C{calls} that C{work} does.
    """
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / calls * 1e6


def main() -> None:
    """
    Measure and print.
    """
    ca = ThrowawayCA.create()
    identity = ca.issue()
    bodies = [BODY % number for number in range(REQUESTS)]
    requests = [(sign_like_device(identity, body), body) for body in bodies]
    parsed = [base64.b64decode(header) for header, _ in requests]

    def unseen() -> None:
        verify = SignatureVerifier(size=1).verify
        for header, body in requests:
            verify(header, body, chain)

    verifier, chain = SignatureVerifier(), ChainVerifier([ca.certificate])
    forgetful = ChainVerifier([ca.certificate], size=1)
    others = [ca.issue(key=identity.key).der for _ in range(2)]
    header, body = requests[0]
    verifier.verify(header, body, chain)
    chain.verify(identity.der)

    def repeated() -> None:
        for _ in range(REQUESTS):
            verifier.verify(header, body, chain)

    def chains() -> None:
        for _ in range(REQUESTS):
            chain.verify(identity.der)

    def new_chains() -> None:
        for number in range(REQUESTS):
            forgetful.verify(others[number % 2])

    def parse_only() -> None:
        for structure in parsed:
            data = cms.ContentInfo.load(structure)["content"]
            signer = data["signer_infos"][0]
            for field in ("version", "digest_algorithm", "signature_algorithm", "signature"):
                signer[field].native  # noqa: B018
            signer["sid"].chosen.dump()
            data["certificates"][0].chosen.dump()

    for what, work in [
        ("BER SHA-1 signature not seen before", unseen),
        ("identical request again", repeated),
        ("chain of a certificate not seen before", new_chains),
        ("chain of the same certificate again", chains),
        ("asn1crypto parsing alone, for comparison", parse_only),
    ]:
        print(f"{best(work, REQUESTS):8.1f} us  {what}")


if __name__ == "__main__":
    main()
