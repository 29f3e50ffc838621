"""The layer types that the published forks of Caffe add to it, for docs/layers.md."""

from __future__ import annotations

from collections.abc import Iterator

from caffe2flax.ir.registry import LAYERS, find_layer
from caffe2flax.layers import register_all
from caffe2flax.layers._forks import TrainingOnly

FORKS = {
    "SSD and RefineDet": "AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss "
    "Normalize Permute PriorBox SmoothL1Loss VideoData",
    "Fast and Faster R-CNN, R-FCN": "BoxAnnotatorOHEM PSROIPooling Proposal ROIAlign "
    "ROIPooling SmoothL1Loss SmoothL1LossOHEM SoftmaxWithLossOHEM",
    "MNC": "MaskPooling MaskResize ROIWarping",
    "MSCNN and cascade-rcnn": "BoxGroupOutput BoxOutput DecodeBBox Detection "
    "DetectionAccuracy DetectionLoss FrcnnOutput ImageGtData ProposalTarget ScaleRoute",
    "YOLO": "EvalDetection GaussianYolov3 RegionLoss Reorg Upsample UpsampleDarknet "
    "YoloDetectionOutput YoloSeg Yolov3 Yolov3DetectionOutput",
    "MobileNet, ShuffleNet, SENet": "Axpy ConvolutionDepthwise DepthwiseConvolution "
    "ReLU6 ShuffleChannel",
    "SegNet and ENet": "BN DenseImageData SpatialDropout Upsample",
    "PSPNet and ICNet": "BN DenseCRF DomainTransform ICNetSubgraph Interp SegAccuracy",
    "HED and RCF": "AutoCrop",
    "CRF-RNN": "MultiStageMeanfield",
    "FlowNet2": "Accum ChannelNorm Correlation Correlation1D DataAugmentation "
    "Downsample FlowAugmentation FlowWarp GenerateAugmentationParameters L1Loss "
    "LpqLoss Mean Resample",
    "LiteFlowNet": "Correlation ExpMax Grid NegSquare Warp",
    "PWC-Net": "Correlation Warp",
    "C3D and video-caffe": "Convolution3D Deconvolution3D NdConvolution NdPooling "
    "Pooling3D VideoData",
    "3D-Caffe": "PoolingND",
    "Temporal Segment Networks": "BN Gather Scatter VideoData",
    "naibaf7 (U-Net)": "Affinity MergeCrop",
    "OpenPose and RMPE": "EltwiseAffine ImResize Nms SpatialTransformer",
    "Text recognition": "CTCGreedyDecoder ContinuationIndicator Lstm Reverse Transpose "
    "WarpCTCLoss",
    "Re-identification": "GuidedDropout",
    "NVCaffe and DIGITS": "DetectNetTransformation TRT",
    "Intel and OpenVINO": "ChannelScale PriorBoxClustered Reorg SpatialDropout",
    "Vitis-AI": "ConvolutionBNFixed ConvolutionFixed DeconvolutionBNFixed "
    "DeconvolutionFixed FixedNeuron GSTiling InnerProductFixed RPROI",
    "Synopsys": "Add BatchToSpaceND Div ExpandDimsND Maximum Minimum MirrorPad Mul Pad "
    "Pow ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ResizeBilinear ResizeNearestNeighbor SpaceToBatchND SpaceToDepth "
    "Squeeze Sub Unsqueeze Unstack",
}
"""By fork, or by what forks are for, the names of its types."""


def fork_table() -> str:
    """For each fork which of its types are converted, and which are not."""
    register_all()
    named = {fork: types.split() for fork, types in FORKS.items()}
    lines = [f"| {fork} | {' | '.join(_columns(ts))} |" for fork, ts in named.items()]
    heads = "fork", "converted", "left out: for training alone", "refused"
    return "\n".join([f"| {' | '.join(heads)} |", "|---|---|---|---|", *lines]) + "\n"


def _columns(types: list[str]) -> Iterator[str]:
    known = {type_: LAYERS.get(type_) or find_layer(type_, 2) for type_ in types}
    training = [t for t, cls in known.items() if cls and issubclass(cls, TrainingOnly)]
    refused = [t for t, cls in known.items() if cls is None]
    converted = [t for t in types if t not in training and t not in refused]
    for column in (converted, training, refused):
        yield ", ".join(f"`{type_}`" for type_ in column)
