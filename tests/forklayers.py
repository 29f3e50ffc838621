"""A small net for each layer type that no file of fixtures/ has."""

from __future__ import annotations

from collections.abc import Iterator

from caffe2flax.ir.registry import LAYERS, PARAMETERS
from caffe2flax.layers import register_all
from tests.single import single

IMAGE = (1, 4, 6, 6)
VIDEO = (1, 4, 4, 6, 6)
ROIS = (2, 5)
ROWS = (2, 4)

Form = tuple[str, tuple[tuple[int, ...], ...], int]
"""What stands in a layer's own message; the shapes of its bottoms; how many tops."""

WINDOW = "num_output: 4 kernel_size: 3 pad: 1"
FORMS: dict[str, Form] = {
    "Accum": ("top_height: 6 top_width: 6", (IMAGE, IMAGE), 1),
    "BatchToSpaceND": (
        "block_shape: 2 block_shape: 2 crops: 0 crops: 0 crops: 0 crops: 0",
        ((4, 4, 6, 6),),
        1,
    ),
    "BoxOutput": (
        'fg_thr: 0 iou_thr: 0.5 nms_type: "IOU" field_w: 16 field_h: 16 '
        "downsample_rate: 8 field_whr: 2 field_xyr: 2",
        ((1, 6, 6, 6),),
        1,
    ),
    "ContinuationIndicator": ("time_step: 3 batch_size: 2", (), 1),
    "CTCGreedyDecoder": ("blank_index: 0", ((5, 2, 4), (5, 2)), 1),
    "ConvolutionDepthwise": (WINDOW, (IMAGE,), 1),
    "DepthwiseConvolution": (WINDOW + " group: 4", (IMAGE,), 1),
    "Convolution3D": (WINDOW + " kernel_depth: 3 temporal_pad: 1", (VIDEO,), 1),
    "CONVOLUTION3D": (WINDOW + " kernel_depth: 3 temporal_pad: 1", (VIDEO,), 1),
    "Deconvolution3D": (WINDOW + " kernel_depth: 3", (VIDEO,), 1),
    "DECONVOLUTION3D": (WINDOW + " kernel_depth: 3", (VIDEO,), 1),
    "Correlation": (
        "kernel_size: 1 max_displacement: 2 pad: 2 stride_1: 1 stride_2: 1",
        (IMAGE, IMAGE),
        1,
    ),
    "Correlation1D": (
        "kernel_size: 1 max_displacement: 2 pad: 2 stride_1: 1 stride_2: 1",
        (IMAGE, IMAGE),
        1,
    ),
    "Downsample": ("top_height: 3 top_width: 3", (IMAGE,), 1),
    "GuidedDropout": ("", (IMAGE, (1, 4, 1, 1)), 1),
    "MergeCrop": ("", (IMAGE, (1, 4, 8, 8)), 1),
    "MultiStageMeanfield": (
        "num_iterations: 2 theta_alpha: 3 theta_beta: 3 theta_gamma: 3",
        (IMAGE, IMAGE, (1, 3, 6, 6)),
        1,
    ),
    "NdPooling": ("kernel_shape { dim: 1 dim: 2 dim: 2 }", (VIDEO,), 1),
    "PoolingND": ("kernel_size: 2", (IMAGE,), 1),
    "Warp": ("", (IMAGE, (1, 2, 6, 6)), 1),
    "DecodeBBox": ("", ((2, 8), ROIS), 1),
    "DenseBlock": (
        "numTransition: 2 initChannel: 4 growthRate: 2 pad_h: 1 pad_w: 1 "
        "conv_verticalStride: 1 conv_horizentalStride: 1 filter_H: 3 filter_W: 3",
        (IMAGE,),
        1,
    ),
    "DetectNetTransformation": (
        "image_size_y: 32 image_size_x: 32 stride: 16",
        (IMAGE, IMAGE),
        2,
    ),
    "ExpandDimsND": ("axis: 1", (IMAGE,), 1),
    "ImResize": ("factor: 2", (IMAGE,), 1),
    "InnerDistance": ("num_output: 3", (ROWS,), 1),
    "Interp": ("height: 9 width: 9", (IMAGE,), 1),
    "Lstm": ("num_output: 3", ((4, 1, 5),), 1),
    "Mean": ("operation: ADD value: 1 value: 2 value: 3 value: 4", (IMAGE,), 1),
    "MirrorPad": (
        "paddings: 0 paddings: 0 paddings: 0 paddings: 0 paddings: 1 paddings: 1 "
        "paddings: 1 paddings: 1",
        (IMAGE,),
        1,
    ),
    "Mul": ("mul_shape: 4 mul_shape: 1 mul_shape: 1", (IMAGE,), 1),
    "Nms": ("max_peaks: 3 num_parts: 4 threshold: 0.1", (IMAGE,), 1),
    "PSROIPooling": (
        "spatial_scale: 1 output_dim: 1 group_size: 2",
        (IMAGE, ROIS),
        1,
    ),
    "Pooling3D": ("kernel_size: 2 kernel_depth: 2", (VIDEO,), 1),
    "POOLING3D": ("kernel_size: 2 kernel_depth: 2", (VIDEO,), 1),
    "Pow": ("", (IMAGE, IMAGE), 1),
    "Proposal": (
        "ratio: 1 scale: 8 base_size: 16 feat_stride: 16 min_size: 16 "
        "pre_nms_topn: 10 post_nms_topn: 5 nms_thresh: 0.7",
        ((1, 2, 6, 6), (1, 4, 6, 6), (1, 4)),
        1,
    ),
    "ROIAlign": ("pooled_h: 2 pooled_w: 2 spatial_scale: 1", (IMAGE, ROIS), 1),
    "ROIPooling": ("pooled_h: 2 pooled_w: 2 spatial_scale: 1", (IMAGE, ROIS), 1),
    "Reorg": ("stride: 2", (IMAGE,), 1),
    "Resample": ("height: 9 width: 9", (IMAGE,), 1),
    "ResizeBilinear": ("output_height: 9 output_width: 9", (IMAGE,), 1),
    "ResizeNearestNeighbor": ("output_height: 9 output_width: 9", (IMAGE,), 1),
    "ReduceL1": ("axes: 1", (IMAGE,), 1),
    "ReduceL2": ("axes: 1", (IMAGE,), 1),
    "SSDDecoder": (
        "num_classes: 2 nms_param { nms_threshold: 0.5 top_k: 4 } keep_top_k: 3",
        ((1, 8), (1, 2, 8)),
        1,
    ),
    "SpaceToBatchND": (
        "block_shape: 2 block_shape: 2 paddings: 0 paddings: 0 paddings: 0 paddings: 0",
        (IMAGE,),
        1,
    ),
    "ShuffleChannel": ("group: 2", (IMAGE,), 1),
    "SpatialTransformer": ("", (IMAGE, (1, 6)), 1),
    "Squeeze": ("axis: 0", (IMAGE,), 1),
    "Transpose": ("dim: 0 dim: 2 dim: 1 dim: 3", (IMAGE,), 1),
    "Unpooling": ("unpool_size: 2", (IMAGE, IMAGE), 1),
    "Unstack": ("axis: 1", (IMAGE,), 4),
    "UpsampleDarknet": ("stride: 2", (IMAGE,), 1),
    "YoloDetectionOutput": (
        "side: 6 num_classes: 2 num_box: 1 coords: 4 biases: 1 biases: 1 "
        "confidence_threshold: 0.1 nms_threshold: 0.4",
        ((1, 7, 6, 6),),
        1,
    ),
    "Yolov3DetectionOutput": (
        "num_classes: 2 confidence_threshold: 0.1 nms_threshold: 0.4 biases: 1 "
        "biases: 1 mask: 0 mask_group_num: 1 num_box: 1 anchors_scale: 8",
        ((1, 7, 6, 6),),
        1,
    ),
}
"""The types that need more than a number of bottoms."""


def fork_nets() -> Iterator[tuple[str, str]]:
    """Type and text of a net for each type; not every one converts as it stands."""
    register_all()
    for type_ in sorted(LAYERS):
        own = (PARAMETERS[type_] or ("",))[0]
        low = LAYERS[type_].bottoms
        bottoms = low if isinstance(low, int) else low[0]
        fields, shapes, tops = FORMS.get(type_, ("", (IMAGE,) * bottoms, 1))
        given = f"{own} {{ {fields} }}" if own else ""
        names = " ".join(f"y{i}" for i in range(tops))
        yield type_, single(type_, given, *shapes, tops=names)
