"""Layer types that are known and not converted: why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

FIELD = (
    "a random field, which filters on a lattice in many dimensions; end the net at the "
    "scores that go into it"
)
ROUNDED = (
    "it rounds numbers to few bits, with scales that are in its weight files only; "
    "convert the net as it was before"
)
PLUGIN = "its code was not published with the net; give a plug-in that says it"
FLOW = (
    "it varies and shifts images by statistics of training, which is the caller's part"
)
TWO_WAYS = (
    "its forks read between pixels in two ways at the edges of images, and nothing in "
    "a net tells which; give a plug-in that says it"
)
WINDOWS = (
    "a branch of one fork has it, for an Lstm over rows and columns at once; give a "
    "plug-in that says it"
)

REFUSED: Mapping[str, str] = {
    "DenseCRF": FIELD,
    "DomainTransform": "it filters along edges, one pixel after the other; "
    "end the net at the scores that go into it",
    "FixedNeuron": ROUNDED,
    "ConvolutionFixed": ROUNDED,
    "ConvolutionBNFixed": ROUNDED,
    "DeconvolutionFixed": ROUNDED,
    "DeconvolutionBNFixed": ROUNDED,
    "InnerProductFixed": ROUNDED,
    "FlowAugmentation": FLOW,
    "GenerateAugmentationParameters": FLOW,
    "RPROI": "proposals and pooling in one plug-in of a closed library; put Proposal "
    "and ROIPooling in its place",
    "TRT": "an engine that was compiled for one card; convert the net it was made of",
    "TOPK": PLUGIN,
    "CropCenter": PLUGIN,
    "DeformableConvolution": TWO_WAYS,
    "Im2Windows": WINDOWS,
    "Permutation": "forks mean several things by it, from an order of axes to puzzles "
    "of patches; put Permute in its place, or give a plug-in that says it",
}
"""Types that are not converted, each with the reason."""
