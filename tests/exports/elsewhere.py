"""ONNX models in other programs than ONNX Runtime. Two steps, as these may need an
environment of their own:

    python -m tests.exports.elsewhere write FOLDER layers|networks|real
    python tests/exports/elsewhere.py check FOLDER opencv

The first writes a model for each recorded layer case, classic or trained network that
ONNX can say, with inputs at batch 1 and 3 and what the reference computes from them.
The second needs numpy, and opencv-python-headless 5 or openvino. It counts the models
that are right, refused by that program, and wrong; the exit status is 1 if any is
wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 2e-5
BATCHES = (1, 3)
OWN = 0
"""Stands for the batch of the case."""
Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


def write(folder: Path, kind: str) -> None:
    """A model and its arrays for each of the "layers", "networks" or "real" ones."""
    import caffe2flax
    from caffe2flax.verification import reference
    from tests.exports.models import as_onnx, taken

    folder.mkdir(parents=True, exist_ok=True)
    found = {"layers": _layers, "real": _real}.get(kind) or partial(_networks, folder)
    for name, conversion, arrays in found():
        try:
            translation = as_onnx(conversion, folder / f"{name}.onnx")
        except caffe2flax.ConversionError:
            continue
        for batch in (*BATCHES, OWN):
            given = arrays if batch == OWN else taken(translation, arrays, batch)
            with suppress(caffe2flax.ConversionError, IndexError):  # of that batch
                values = reference.evaluate(conversion.graph, conversion.blobs, given)
                record = {
                    f"input:{p.name}": given[p.value.blob] for p in translation.inputs
                }
                record |= {
                    f"output:{p.name}": values[p.value] for p in translation.outputs
                }
                np.savez(folder / f"{name}.{batch}.npz", **record)


def _layers() -> Iterator[tuple[str, Any, Arrays]]:
    from tests.golden import cases, fork_cases

    for case in [*cases("layers"), *fork_cases()]:
        if "error" not in case.facts:
            yield case.name, case.convert(), case.inputs()


def _real() -> Iterator[tuple[str, Any, Arrays]]:
    import caffe2flax
    from tests.golden import part
    from tests.test_real import MODELS, REAL

    for name in MODELS:
        files = REAL / name / "deploy.prototxt", REAL / name / "weights.caffemodel"
        with np.load(REAL / name / "golden.npz") as archive:
            inputs = part(dict(archive), "input:")
        yield name, caffe2flax.convert(*files), inputs


def _networks(folder: Path) -> Iterator[tuple[str, Any, Arrays]]:
    import caffe2flax
    from tests import test_networks as networks

    for name in networks.NETWORKS:
        net = networks.FOLDER / f"{name}.prototxt"
        weights = networks.write_seeded(net, folder / f"{name}.caffemodel")
        yield name, caffe2flax.convert(net, weights), networks.inputs(net)


def check(folder: Path, program: str) -> int:
    """Runs every model of `folder`; prints what is not right."""
    load = {"opencv": opencv, "openvino": openvino}[program]
    counts = {"right": 0, "refused": 0, "wrong": 0}
    for path in sorted(folder.glob("*.onnx")):
        verdicts = [*_verdicts(load, path)]
        worst = next((v for v in verdicts if v[0] == "wrong"), None)
        worst = worst or next((v for v in verdicts if v[0] == "refused"), None)
        verdict, about = worst or ("right", "")
        counts[verdict] += 1
        if about:
            print(f"{path.stem}: {verdict}: {about}", flush=True)
    print(f"{program}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    return 1 if counts["wrong"] else 0


def _verdicts(
    load: Callable[[Path, list[str]], Run], path: Path
) -> Iterator[tuple[str, str]]:
    for batch in (*BATCHES, OWN):
        record = path.with_suffix(f".{batch}.npz")
        if not record.exists():
            continue
        with np.load(record) as arrays:
            known = dict(arrays)
        names = [k.removeprefix("output:") for k in known if k.startswith("output:")]
        given = {k[6:]: v for k, v in known.items() if k.startswith("input:")}
        given = {k: np.asarray(v, np.float32) for k, v in given.items()}
        try:
            outputs = load(path, names)(given)
        except Exception as error:
            yield "refused", " ".join(str(error).split())[-100:]
            return
        for name, found in zip(names, outputs, strict=True):
            far = _distance(found, known[f"output:{name}"])
            if not far <= BOUND:
                yield "wrong", f"{name} is off by {far:.1e} at batch {batch}"


def _distance(ours: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference by the largest number; axes of extent 1 do not count, as
    some programs add or drop them."""
    if np.squeeze(ours).shape != np.squeeze(wanted).shape:
        return float("inf")
    ours, wanted = np.squeeze(ours).astype(np.float64), np.squeeze(wanted)
    finite = np.isfinite(wanted)
    if not np.array_equal(ours[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(1e-6, float(np.abs(wanted[finite]).max()))
    return float(np.abs(ours[finite] - wanted[finite]).max()) / scale


def opencv(path: Path, names: list[str]) -> Run:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(path))

    def run(arrays: Arrays) -> list[np.ndarray]:
        for name, array in arrays.items():
            net.setInput(array, name)
        return [*net.forward(names)]

    return run


def openvino(path: Path, names: list[str]) -> Run:
    import openvino as ov

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Core().compile_model(str(path), "CPU", hint)

    def run(arrays: Arrays) -> list[np.ndarray]:
        result = model(arrays)
        return [np.asarray(result[model.output(name)]) for name in names]

    return run


if __name__ == "__main__":
    command, folder, *others = sys.argv[1:]
    if command == "check":
        sys.exit(check(Path(folder), *others))
    write(Path(folder), *others)
