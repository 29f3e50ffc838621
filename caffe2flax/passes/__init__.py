"""Graph -> Graph, one step after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caffe2flax.ir.graph import Graph, check
from caffe2flax.passes.alignment import align_crops
from caffe2flax.passes.batchnorm import fold_batchnorm
from caffe2flax.passes.files import feed_files
from caffe2flax.passes.layout import assign_layouts
from caffe2flax.passes.masks import compare_masks
from caffe2flax.passes.padding import reconcile_padding
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.passes.sizes import find_free_sizes
from caffe2flax.passes.targets import feed_targets
from caffe2flax.passes.unused import drop_unused

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    drop_unused,  # first: labels of dropped losses need no shape
    align_crops,  # before the shapes: whether a crop fits depends on it
    infer_shapes,  # everything below asks for shapes or weight blobs
    compare_masks,  # needs shapes; before poolings may go away
    feed_targets,  # needs shapes; takes nodes away
    feed_files,  # needs shapes; its inputs are none that follow the batch
    find_free_sizes,  # needs all inputs and their shapes
    fold_batchnorm,  # before the layouts: it takes nodes away
    reconcile_padding,  # needs sizes only
    assign_layouts,  # last: adds transposes between the nodes that remain
)


def run_passes(graph: Graph, passes: Sequence[Pass] = PASSES) -> Graph:
    """`graph` ready for emission. Raises ConversionError where Caffe would abort."""
    for step in passes:
        graph = check(step(graph))
    return graph
