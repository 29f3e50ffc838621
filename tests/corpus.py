"""Tries every net below a folder: `python -m tests.corpus DIR [--no-run]`.

Each one is converted (deploy nets as TEST, train_val nets as TEST and as TRAIN), the
emitted module is built and run on zeros, and a table by repository tells how many were
converted, refused as broken, ambiguous or unsupported, ended in a traceback or took too
long. Nothing is written, and nothing that a net names is opened. Every worker is a
process of its own with limits on time and memory.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".prototxt", ".pt", ".txt", ".prototxt.template")
SOLVER_FIELDS = ("base_lr", "train_net", "solver_mode", "net", "lr_policy")
LOSS = re.compile(r"Loss|Accuracy|_loss\b|LOSS|accuracy")
DEEP = 400
"""Layers beyond which a net is converted only: tracing it takes minutes."""
CHEAP = 40_000_000
"""Numbers in blobs and weights up to which a net is run, not only traced."""
REFUSED = ("unsupported", "broken", "ambiguous")
"""The kinds of refusals; that of a file is the first one among its problems."""
OUTCOMES = ("converted", *REFUSED, "traceback", "slow", "nan")


@dataclass(frozen=True)
class Try:
    """A net file under one phase."""

    path: str
    repository: str
    kind: str
    phase: str


@dataclass(frozen=True)
class Result:
    """The result of a Try: an outcome, the seconds it took, and the reason."""

    attempt: Try
    outcome: str
    seconds: float
    reasons: tuple[str, ...] = ()
    assumed: bool = False
    """Whether the shape of an input was assumed, as only its data has it."""


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    if options.worker:
        return _work(options.run)
    folder = Path(options.folder)
    tries = [t for path in sorted(_files(folder)) for t in _tries(folder, path)]
    if options.only:
        tries = [t for t in tries if re.search(options.only, t.path)]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(_Workers(options.run, options.limit), tries))
    print(_table(results))
    print()
    print(_reasons(results))
    if options.list:
        print()
        print(_listing(results, options.list))
    fine = ("converted", *REFUSED)
    return 0 if all(r.outcome in fine for r in results) else 1


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus")
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR")
    parser.add_argument(
        "--no-run", dest="run", action="store_false", help="convert only"
    )
    parser.add_argument(
        "--limit", type=float, default=10.0, help="seconds of processor time a try"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", metavar="REGEX", help="paths that hold this")
    parser.add_argument(
        "--list", choices=OUTCOMES, action="append", help="name the files, too"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.name.endswith(SUFFIXES) and path.is_file()
    )


def _tries(folder: Path, path: Path) -> Iterator[Try]:
    relative = path.relative_to(folder)
    repository = relative.parts[0] if len(relative.parts) > 1 else "."
    kind = _kind(path)
    if kind:
        for phase in ("TEST",) if kind == "deploy" else ("TEST", "TRAIN"):
            yield Try(str(path), repository, kind, phase)


def _kind(path: Path) -> str:
    """`deploy`, `train_val`, or nothing for what is no net."""
    text = path.read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"#.*", "", text)
    if not re.search(r"^\s*layers?\s*:?\s*[{<]", text, re.MULTILINE):
        return ""
    if re.search(rf"^({'|'.join(SOLVER_FIELDS)})\s*:", text, re.MULTILINE):
        return ""
    types = re.findall(r"^\s*type\s*:\s*[\"']?(\w+)", text, re.MULTILINE)
    data = any(re.search(r"Data\d?$|_DATA$|^DATA$|^data$", t) for t in types)
    return "train_val" if data or any(map(LOSS.search, types)) else "deploy"


class _Workers:
    """One worker process for each thread, replaced when it dies or takes too long."""

    def __init__(self, run: bool, limit: float):
        self.command = [sys.executable, "-m", "tests.corpus", "--worker"]
        self.command += [] if run else ["--no-run"]
        self.limit = limit
        self.local = threading.local()

    def __call__(self, attempt: Try) -> Result:
        worker = getattr(self.local, "worker", None) or self._start()
        timer = threading.Timer(self.limit * 12, worker.kill)
        started = time.monotonic()
        timer.start()
        try:
            worker.stdin.write(json.dumps(asdict(attempt)) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        seconds = time.monotonic() - started
        if not answer:
            self.local.worker = None
            return Result(attempt, "slow", seconds, ("the worker was ended",))
        found = json.loads(answer)
        outcome, seconds = found["outcome"], found["seconds"]
        if seconds > self.limit:
            outcome = "slow"
        return Result(
            attempt, outcome, seconds, tuple(found["reasons"]), found["assumed"]
        )

    def _start(self) -> subprocess.Popen[str]:
        self.local.worker = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self.local.worker


def _work(run: bool) -> int:
    """Answers each line of stdin, a Try, with one of stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        attempt = Try(**json.loads(line))
        answers.write(json.dumps(_attempt(attempt, run)) + "\n")
        answers.flush()
    return 0


def _attempt(attempt: Try, run: bool) -> dict[str, Any]:
    import caffe2flax

    # Of the processor: other processes do not count.
    started = time.process_time()
    seconds, assumed = 0.0, False
    try:
        conversion = caffe2flax.convert(attempt.path, phase=attempt.phase)
        assumed = bool(conversion.graph.sizes.assumed)
        seconds = time.process_time() - started
        outcome = "converted"
        reasons = _run(conversion) if run else []
        if reasons:
            outcome = "nan"
    except caffe2flax.ConversionError as error:
        kinds = {p.kind for p in error.problems}
        outcome = next((kind for kind in REFUSED if kind in kinds), "broken")
        reasons = [p.message for p in error.problems]
    except Exception:
        outcome = "traceback"
        reasons = [" / ".join(traceback.format_exc().splitlines()[-7:])]
    return {
        "outcome": outcome,
        "seconds": seconds or time.process_time() - started,
        "reasons": reasons,
        "assumed": assumed,
    }


def _run(conversion: Any) -> list[str]:
    """Builds the module and calls it on zeros; returns the outputs with NaN."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from caffe2flax.runner import _parameters, load_class

    graph = conversion.graph
    if len(graph.nodes) > DEEP:
        return []
    inputs = [graph.operand(value).emitted for value in graph.arguments]
    cls = load_class(conversion.name, conversion.source)
    seeded = "rngs" in _parameters(cls, "__init__")
    random = "rngs" in _parameters(cls, "__call__")

    def forward(*args: Any) -> Any:
        model = cls(rngs=nnx.Rngs(0)) if seeded else cls()
        model.train() if graph.phase == "TRAIN" else model.eval()
        # Built here: counters of a module built outside a trace cannot change inside.
        return model(*args, **({"rngs": nnx.Rngs(0)} if random else {}))

    size = sum(np.prod(shape, dtype=float) for shape in graph.shapes.values())
    weights = {w for node in graph.nodes for w in node.weights}
    size += sum(np.prod(w.shape, dtype=float) for w in weights)
    if size > CHEAP or len(graph.nodes) > 150:
        abstract = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
        jax.eval_shape(forward, *abstract)
        return []
    outputs = jax.jit(forward)(*(jnp.zeros(shape) for shape in inputs))
    return [
        f"NaN in {jax.tree_util.keystr(path)}"
        for path, x in jax.tree_util.tree_leaves_with_path(outputs)
        if np.isnan(np.asarray(x)).any()
    ]


def _table(results: list[Result]) -> str:
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for result in results:
        for key in (
            (result.attempt.repository, ""),
            ("all", result.attempt.kind),
            ("all", f"{result.attempt.kind} {result.attempt.phase}"),
        ):
            rows[key]["tries"] += 1
            rows[key][result.outcome] += 1
            rows[key]["size assumed"] += result.assumed
    heads = ("tries", *OUTCOMES, "size assumed")
    names = [" ".join(key).strip() for key in rows]
    width = max(map(len, names), default=0)
    lines = [" " * width + "".join(f"{head:>13}" for head in heads)]
    for key in sorted(rows, key=lambda key: (key[0] == "all", key)):
        counts = "".join(f"{rows[key][head] or '':>13}" for head in heads)
        share = rows[key]["converted"] / rows[key]["tries"]
        lines.append(f"{' '.join(key).strip():{width}}{counts} {share:7.1%}")
    return "\n".join([*lines, "", *_means(results)])


def _means(results: list[Result]) -> Iterator[str]:
    """How many of the tries that are not broken are converted, by kind."""
    for kind in sorted({r.attempt.kind for r in results}):
        sound = [r for r in results if r.attempt.kind == kind and r.outcome != "broken"]
        by: dict[str, list[bool]] = defaultdict(list)
        for r in sound:
            by[r.attempt.repository].append(r.outcome == "converted")
        share = sum(map(sum, by.values())) / max(len(sound), 1)
        mean = sum(sum(own) / len(own) for own in by.values()) / max(len(by), 1)
        yield f"{kind}, without broken files: {share:.1%}, by repository {mean:.1%}"


def _reasons(results: Iterable[Result]) -> str:
    """How many tries have each reason, names and numbers aside."""
    counts: Counter[str] = Counter()
    for result in results:
        general = {_general(reason) for reason in result.reasons}
        counts.update(f"{result.outcome}: {reason}" for reason in general)
    return "\n".join(f"{n:5} {reason}" for reason, n in counts.most_common())


def _general(reason: str) -> str:
    if reason.startswith("layer type") or " / " in reason:
        return re.sub(r" \(\d+ layers\)", "", reason)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", re.sub(r"'[^']*'", "'...'", reason))


def _listing(results: Iterable[Result], outcomes: list[str]) -> str:
    lines = []
    for r in results:
        if r.outcome in outcomes:
            lines.append(
                f"{r.outcome} {r.attempt.phase} {r.seconds:.1f}s {r.attempt.path}"
            )
            lines += [f"    {reason}" for reason in r.reasons]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
