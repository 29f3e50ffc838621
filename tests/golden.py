"""Cases recorded from Caffe, and our results for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import caffe2flax
from caffe2flax.codegen.module import emit
from caffe2flax.conversion import Conversion
from caffe2flax.frontend.caffemodel import read_binaryproto
from caffe2flax.passes.blocks import find_blocks
from caffe2flax.verification import reference
from caffe2flax.weights.variables import Variables

FIXTURES = Path(__file__).parent.parent / "fixtures"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A line of `index.json` and the files beside it."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def prototxt(self) -> Path:
        return self.folder / f"{self.name}.prototxt"

    @property
    def weights(self) -> Path | None:
        path = self.folder / self.facts.get("weights", f"{self.name}.caffemodel")
        return path if path.exists() else None

    @property
    def options(self) -> dict[str, Any]:
        f = self.facts
        chosen = {"phase": f["phase"], "level": f["level"], "stages": f["stages"]}
        return chosen | ({"dialect": f["dialect"]} if "dialect" in f else {})

    def arrays(self, suffix: str = "") -> Arrays:
        path = self.folder / f"{self.name}{suffix}.npz"
        with np.load(path) as archive:
            return dict(archive)

    def inputs(self) -> Arrays:
        """The inputs; for data layers that read files, the data in them."""
        given = part(self.arrays(), "input:") | self.files()
        read = (self.arrays().get(f"blob:{top}") for top in self.read_tops())
        return given | {
            top: blob
            for top, blob in zip(self.read_tops(), read, strict=True)
            if blob is not None
        }

    def files(self) -> Arrays:
        """Matrices that the net names as files."""
        text = self.prototxt.read_text(encoding="utf-8")
        named = (p for p in self.folder.glob("*.binaryproto") if p.name in text)
        return {path.name: np.squeeze(read_binaryproto(path)) for path in named}

    def read_tops(self) -> list[str]:
        return ["data", "label"] if self.facts["type"] == "HDF5Data" else []

    def convert(self, **options: Any) -> Conversion:
        if self.read_tops():
            shapes = {name: array.shape for name, array in self.inputs().items()}
            options = {"input_shapes": shapes} | options
        return caffe2flax.convert(
            self.prototxt, self.weights, **(self.options | options)
        )


def cases(folder: str) -> list[Case]:
    """The cases of a folder below fixtures/."""
    path = FIXTURES / folder
    return [
        Case(path, facts) for facts in json.loads((path / "index.json").read_text())
    ]


OLDER = {"dialect": {"InfogainLoss": "probabilities"}}
"""Options for a net with a layer type of several meanings."""


def fork_cases() -> list[Case]:
    """The cases of layers outside BVLC Caffe."""
    return [
        Case(case.folder, case.facts | (OLDER if case.name == "infogain_old" else {}))
        for case in cases("fork_layers")
    ]


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with `prefix`, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


def distance(ours: np.ndarray, caffe: np.ndarray) -> float:
    """max |ours - Caffe| / max(1e-6, max |Caffe|); infinite where shapes, NaN or
    infinities differ."""
    if ours.shape != caffe.shape:
        return float("inf")
    finite = np.isfinite(caffe)
    if not np.array_equal(ours[~finite], caffe[~finite], equal_nan=True):
        return float("inf")
    ours, caffe = ours[finite].astype(np.float64), caffe[finite].astype(np.float64)
    if not caffe.size:
        return 0.0
    return float(np.max(np.abs(ours - caffe)) / max(1e-6, np.max(np.abs(caffe))))


def evaluate_reference(case: Case) -> Arrays:
    """Every blob of the case by our float64 reference."""
    conversion = case.convert(taps="all")
    inputs = case.inputs()
    values = reference.evaluate(conversion.graph, conversion.blobs, inputs)
    last = {v.blob: v for v in (*conversion.graph.outputs, *conversion.graph.taps)}
    return {blob: values[value] for blob, value in last.items()}


def gradients(case: Case) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Input and parameter gradients of the generated module and of Caffe: (inputs,
    Caffe's inputs, parameters, Caffe's parameters), parameters by variable name."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from caffe2flax.runner import instantiate

    caffe = case.arrays(".grad")
    conversion = case.convert()
    graph = conversion.graph
    model = instantiate(conversion)
    if case.options["phase"] == "TRAIN":
        model.train()
    state, rest = nnx.state(model, nnx.Param), nnx.state(model, nnx.Not(nnx.Param))
    definition = nnx.graphdef(model)
    given = case.inputs()
    args = [
        jnp.asarray(given[v.blob].transpose(graph.layouts[v].axes))
        for v in graph.arguments
    ]

    def call(state: Any, args: Any) -> Any:
        # A copy: running statistics change, and belong to this trace.
        out = nnx.merge(definition, state, rest, copy=True)(*args)
        return {graph.outputs[0].blob: out} if len(graph.outputs) == 1 else out

    outputs, pull = jax.vjp(call, state, args)
    seeds = _seeds(conversion, case, part(caffe, "topdiff:"), outputs)
    of_state, of_args = pull(seeds)
    ours = {
        v.blob: np.asarray(g).transpose(np.argsort(graph.layouts[v].axes))
        for v, g in zip(graph.arguments, of_args, strict=True)
    }
    flat = {
        ".".join(map(str, k)): np.asarray(v[...])
        for k, v in nnx.to_flat_state(of_state)
    }
    return ours, part(caffe, "indiff:"), flat, _parameters(conversion, caffe)


def _seeds(
    conversion: Conversion, case: Case, topdiff: Arrays, outputs: Arrays
) -> dict[str, Any]:
    """The cotangent of every output: Caffe's top diff, or the loss weight."""
    graph = conversion.graph
    weights = {
        value: weight
        for node in graph.nodes
        for value, weight in zip(node.outputs, node.loss_weights, strict=False)
    }
    seeds = {}
    for value in graph.outputs:
        like = outputs[value.blob]
        if value.blob in topdiff:
            seed = topdiff[value.blob].transpose(graph.layouts[value].axes)
        else:
            seed = np.full(like.shape, weights.get(value, 0.0), np.float32)
        seeds[value.blob] = seed.astype(like.dtype)
    return seeds


def _parameters(conversion: Conversion, caffe: Arrays) -> Arrays:
    """Caffe's parameter gradients, arranged as the module's variables."""
    graph = conversion.graph
    diffs = {}
    for key, diff in part(caffe, "paramdiff:").items():
        layer, _, index = key.rpartition(":")
        slots = graph.layer_weights.get(layer, ())
        if int(index) < len(slots):
            slot = slots[int(index)]
            diffs[slot.owner, slot.index] = diff.reshape(slot.shape)
    blobs = {k: diffs.get(k, np.zeros_like(b)) for k, b in conversion.blobs.items()}
    module = emit(
        graph,
        conversion.name,
        blocks=find_blocks(graph),
        initialise=False,
        origin="",
        version="",
    )
    return Variables(graph, module, blobs)
