"""Time and memory of `caffe2flax convert` as a whole process, beside `cp` of the
caffemodel, and beside caffe-onnx where --caffe-onnx is given."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from statistics import median

from speed.networks import CONVERTED, WORK, Network, network
from speed.process import MEGABYTE, convert, copy, run
from speed.results import environment, save
from speed.tables import Record

LIMITED = 300 * MEGABYTE
"""Memory of its own that a conversion has to do with, whatever the network's size."""

PEER = "caffe-onnx==0.1.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=CONVERTED, default=list(CONVERTED))
    add("--rounds", type=int, default=5)
    add(
        "--caffe-onnx",
        action="store_true",
        help="install it into a virtual environment of its own, and run it",
    )
    add("--limit", type=float, default=120, help="seconds caffe-onnx has for each")
    options = parser.parse_args()
    ran_on = environment("caffe2flax", "numpy")
    for name in options.networks:
        net = network(name)
        point = measure(net, options.rounds)
        print(describe(net, point), flush=True)
        save("convert", {name: point}, ran_on)
        if options.caffe_onnx:
            found = caffe_onnx(net, options.limit)
            save("caffe-onnx", {name: found}, {**ran_on, "caffe-onnx": "0.1.2"})
            print(f"{net.title}: caffe-onnx {found}", flush=True)


def measure(net: Network, rounds: int) -> Record:
    """Seconds of cp and of convert in turns, and bytes of memory at most."""
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        folder = Path(temporary) / "out"
        folder.mkdir()
        target = folder.parent / "copy"
        files = net.prototxt, net.weights
        # Brings the files into the page cache, and has Python keep what it compiled.
        copy(net.weights, target)
        convert(*files, folder)
        copies, outcomes = [], []
        for _ in range(rounds):
            copies.append(copy(net.weights, target))
            outcomes.append(convert(*files, folder))
        limited = convert(*files, folder, data=LIMITED)
    for outcome in (*outcomes, limited):
        if outcome.code:
            print(f"{net.title}: convert failed: {outcome.last}", file=sys.stderr)
    return {
        "bytes": net.weights.stat().st_size,
        "copies": copies,
        "seconds": [outcome.seconds for outcome in outcomes],
        "own": max(outcome.own for outcome in outcomes),
        "peak": max(outcome.peak for outcome in outcomes),
        "limited": limited.code == 0,
        "failed": sum(outcome.code != 0 for outcome in outcomes),
    }


def describe(net: Network, point: Record) -> str:
    seconds, copied = median(point["seconds"]), median(point["copies"])
    return (
        f"{net.title}: {seconds:.2f} s, cp {copied:.3f} s, ratio "
        f"{seconds / copied:.1f}, own memory {point['own'] / MEGABYTE:.0f} MB, "
        f"under {LIMITED // MEGABYTE} MB: {'yes' if point['limited'] else 'no'}"
    )


def caffe_onnx(net: Network, limit: float) -> Record:
    """Seconds, bytes, and how it ended."""
    home = WORK / "caffe-onnx"
    program = home / "bin" / "caffe2onnx"
    if not program.exists():
        venv.create(home, with_pip=True)
        subprocess.run(
            [str(home / "bin" / "pip"), "install", "--quiet", PEER], check=True
        )
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        files = [str(net.prototxt), str(net.weights)]
        outcome = run([str(program), *files, "net", temporary], limit=limit)
        written = (Path(temporary) / "net.onnx").exists()
    ended = "done" if written else "out of time" if outcome.code is None else "failed"
    return {"seconds": outcome.seconds, "peak": outcome.peak, "ended": ended}


if __name__ == "__main__":
    main()
