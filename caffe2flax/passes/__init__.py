"""The passes, each Graph -> Graph, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caffe2flax.ir.graph import Graph, check
from caffe2flax.passes.alignment import align_crops
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.files import files_to_inputs
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.losses import return_losses
from caffe2flax.passes.masks import compare_masks
from caffe2flax.passes.meanings import settle_meanings
from caffe2flax.passes.padding import reconcile_padding
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.passes.sizes import find_free_sizes
from caffe2flax.passes.targets import targets_to_inputs
from caffe2flax.passes.unused import drop_unused

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    return_losses,  # first: no top that counts in the loss is unused
    drop_unused,  # early: the shapes of dropped labels may be unknown
    align_crops,  # before the shapes: they are checked against the offsets
    settle_meanings,  # before the shapes, which follow from the meanings
    infer_shapes,  # all passes below need shapes or weight blobs
    compare_masks,  # needs shapes; before poolings may be removed
    targets_to_inputs,  # needs shapes; removes nodes
    files_to_inputs,  # needs shapes; after them, as its inputs have no batch
    find_free_sizes,  # needs all inputs and their shapes
    fold_batchnorm,  # before the layouts: it removes nodes
    reconcile_padding,  # needs sizes only
    assign_layouts,  # last: adds transposes between the nodes that remain
)


def run_passes(graph: Graph, passes: Sequence[Pass] = PASSES) -> Graph:
    """`graph` after all passes. Raises ConversionError where Caffe would abort."""
    for step in passes:
        graph = check(step(graph))
    return graph
