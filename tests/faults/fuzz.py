"""
Looks for inputs that parsers do not expect, guided by what code they reach::

    python -m tests.faults.fuzz TARGET -runs=100000

TARGET is a name in L{tests.faults.targets.TARGETS}; what follows are options of libFuzzer.
It takes C{atheris}, which tests do not need and so no extra of the package has.  What it
finds worth keeping is in C{nanomdm-fuzz} in the directory for temporary files, where the
next run goes on: an input that raises what the parser must not raise, or takes longer
than L{HANG<tests.faults.target.HANG>}, is in a file whose name begins with C{crash-TARGET-}.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Final

import atheris

#: The libraries are those that take apart what comes over connections.
_GUIDES: Final = ("nanomdm", "h2", "hpack", "hyperframe", "twisted.web")

with atheris.instrument_imports(include=_GUIDES):
    from tests.faults.mutations import change_der
    from tests.faults.target import Target
    from tests.faults.targets import TARGETS

#: Bytes of an input.
_LONGEST: Final = 1 << 14


def mutate_der(data: bytes, longest: int, seed: int) -> bytes:
    """
    Change DER, mostly so that it stays DER.
    """
    rng = random.Random(seed)
    changed = change_der(data, rng) if rng.random() < 0.9 else None
    return (changed or atheris.Mutate(data, longest))[:longest]


def prepare(name: str, target: Target) -> list[str]:
    """
    @return: arguments for libFuzzer: where inputs are, and what they are made of.
    """
    place = Path(tempfile.gettempdir()) / "nanomdm-fuzz"
    corpus = place / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-artifact_prefix={place}/crash-{name}-", f"-max_len={_LONGEST}"]
    if target.words:
        words = place / f"{name}.words"
        quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        words.write_text("".join(f'"{word}"\n' for word in quoted))
        options.append(f"-dict={words}")
    return [*options, str(corpus)]


def main(arguments: list[str]) -> None:
    """
    Fuzz one target until libFuzzer's options say that it is enough.
    """
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        raise SystemExit(f"usage: fuzz TARGET [-runs=N]; TARGET is one of {', '.join(TARGETS)}")
    name = arguments[1]
    target = TARGETS[name]
    # Changed certificates make cryptography warn.
    warnings.simplefilter("ignore")
    more = {"custom_mutator": mutate_der} if target.is_der else {}
    atheris.Setup(
        [arguments[0], *prepare(name, target), *arguments[2:]],
        target.try_,
        **more,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
