"""The same targets and mutations with inputs that coverage chooses, by atheris.

libFuzzer ends its process when it is done, so each target runs in one of its own:
`python -m tests.fuzz.guided TARGET [libFuzzer's options]`.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

LONGEST_RUN = 20
"""Seconds by the clock after which libFuzzer takes an input for hanging."""

MEGABYTES = 1500
"""libFuzzer's limit for the whole process, its own tables included."""


def run(
    name: str, seconds: float, iterations: int | None, seed: int, keep: Path
) -> int:
    """1 where an input broke a promise, 0 elsewhere."""
    options = [
        f"-seed={seed + 1}",
        f"-timeout={LONGEST_RUN}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={keep}/{name}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    if iterations is not None:
        options.append(f"-runs={iterations}")
    if math.isfinite(seconds):
        options.append(f"-max_total_time={math.ceil(seconds)}")
    command = [sys.executable, "-m", "tests.fuzz.guided", name, *options]
    print(f"{name}, guided by coverage:", flush=True)
    return int(subprocess.run(command, check=False).returncode != 0)


def main() -> None:
    import atheris  # type: ignore

    with atheris.instrument_imports(include=["caffe2flax"]):
        from tests.fuzz.campaign import attack, limit_memory, shared_memory
        from tests.fuzz.targets import LARGEST_INPUT, TARGETS
    target = TARGETS[sys.argv[1]]
    seeds = target.seeds()
    limit_memory()
    with tempfile.TemporaryDirectory(dir=shared_memory()) as scratch:
        folder, corpus = Path(scratch), Path(scratch, "corpus")
        corpus.mkdir()
        for i, data in enumerate(seeds):
            (corpus / f"{i}").write_bytes(data)

        def test(data: bytes) -> None:
            attack(target, data, folder)

        def mutate(data: bytes, largest: int, seed: int) -> bytes:
            random = Random(seed)
            if random.random() < 0.3:
                return bytes(atheris.Mutate(data, largest))
            return target.mutate(data, seeds, random)[:largest]

        arguments = [sys.argv[0], *sys.argv[2:], f"-max_len={LARGEST_INPUT}"]
        atheris.Setup([*arguments, str(corpus)], test, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
