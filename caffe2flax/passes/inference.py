"""The form of a net that is only run: `convert --optimize`.

What it gives up: layers that Caffe names are gone where a convolution does their work,
weights are no longer Caffe's, so that there is nothing to fine-tune or to share, every
Winograd convolution takes a tenth of a second to compile, and a ReLU that oneDNN
computes takes NaN for 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from caffe2flax.ir import Graph, Node
from caffe2flax.passes.batchnorm import join


def prepare(graph: Graph) -> Graph:
    """Puts into a convolution what multiplies and shifts its channels, the sum with
    another blob and the ReLU behind it, and prepares kernels: for Winograd's algorithm
    where that pays, large matrices in the order in which they are read.

    Before: a = Convolution(x); b = BatchNorm(a); c = Eltwise(y, b); d = ReLU(c)
    After:  d = Convolution(x, y), with other weights
    """
    count = len(graph.nodes) + 1
    while len(graph.nodes) < count:
        count = len(graph.nodes)
        graph = join(graph, lambda layer, after: layer.absorb(after), tied=False)
    uses = Counter(weight for node in graph.nodes for weight in node.weights)
    nodes = tuple(
        replace(
            node, layer=node.layer.prepare(*map(graph.shapes.__getitem__, node.inputs))
        )
        if all(uses[weight] == 1 for weight in node.weights)
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes), remarks=tuple(_remarks(nodes)))


def _remarks(nodes: Sequence[Node]) -> Iterator[str]:
    """What the form gave up."""
    folded = sum(len(n.layers) - 1 for n in nodes if n.layer.gives_up[0])
    others = sum(node.layer.gives_up[1] for node in nodes)
    if not folded and not others:
        return
    yield (
        "For inference alone, within 2e-5 of what convert writes without --optimize: "
        f"layers that are in the convolutions before them: {folded}; kernels in "
        f"another form, Winograd's or transposed: {others}. Their weights are no "
        "longer Caffe's, and not for fine-tuning; a NaN may become 0 at a ReLU."
    )
