"""Let atheris look for bytes that break a promise: `python -m tests.fuzz --help`.

Atheris is libFuzzer for Python (https://github.com/google/atheris), and no dependency of ours: `pip install atheris`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("harness", help="its name, or `list`")
    parser.add_argument("--seconds", type=int, default=60, help="how long to search (default: 60)")
    parser.add_argument("--corpus", type=Path, help="a directory in which what was found interesting is kept")
    arguments = parser.parse_args()
    with atheris.instrument_imports(include=["lb", "node", "cluster"]):
        from tests.fuzz.test_harnesses import HARNESSES
    found = {harness.name.replace(" ", "-"): harness for harness in HARNESSES}
    harness = found.get(arguments.harness)
    if harness is None:
        sys.exit("harnesses: " + ", ".join(found))
    with tempfile.TemporaryDirectory() as scratch:
        corpus = arguments.corpus or Path(scratch) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(harness.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        words = Path(scratch) / "words"
        words.write_text("".join(f'"{_escaped(piece)}"\n' for piece in harness.pieces))
        options = [f"-max_total_time={arguments.seconds}", f"-dict={words}", "-max_len=2000", "-timeout=20"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], harness.check)
        atheris.Fuzz()


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


if __name__ == "__main__":
    main()
