"""Differences between Caffe's forks: type names with several meanings, and fields that
do not change what a net computes."""

from __future__ import annotations

from collections.abc import Mapping

from caffe2flax.errors import ConversionError, Problem, closest

DIALECTS: Mapping[str, Mapping[str, str]] = {
    "BN": {
        "segnet": "blobs scale and shift; at inference nothing else",
        "parsenet": "blobs scale and shift, after the statistics of the batch",
        "pspnet": "blobs slope, bias, mean and variance",
    },
    "BatchNorm": {
        "bvlc": "blobs mean and variance, and a factor that divides them",
        "nvcaffe": "blobs mean, variance and a third that divides nothing; with "
        "scale_bias, scale and bias",
        "intel": "blobs mean, variance, a factor, scale and bias",
        "xilinx": "blobs scale, bias, mean and variance",
    },
    "Crop": {
        "bvlc": "axis and offset as given, offset 0 where none is",
        "auto": "an offset that follows from the layers between the two bottoms",
    },
    "InfogainLoss": {
        "logits": "Caffe 1.0: a softmax comes first",
        "probabilities": "older Caffe: the bottom holds probabilities",
    },
    "Lstm": {
        "flat": "bottom (T * N, ...), batch_size N: top (T * N, num_output)",
        "sequence": "bottom (T, N, ...): top (T, N, num_output)",
    },
    "Normalize": {
        "ssd": "norm_param: divided by the L2 norm, times a learned scale",
        "happynear": "normalize_param: divided by the norm of the channels",
    },
    "PriorBox": {
        "ssd": "a box for each size and ratio",
        "faceboxes": "squares one pixel smaller, 32 in 4 x 4 places, 64 in 2 x 2",
        "textboxes": "each box twice, the second time half a cell lower",
    },
    "SigmoidCrossEntropyLoss": {
        "normalized": "Caffe 1.0: loss_param says what the sum is divided by",
        "batch": "older Caffe: the sum is divided by the batch size",
    },
    "DepthwiseConvolution": {
        "depthwise": "without group: on the GPU the fork computes a depthwise one with "
        "the first C kernels; give group: C, as many groups as channels",
        "full": "without group: on the CPU the fork computes a full convolution; give "
        "type: Convolution",
    },
    "Upsample": {
        "unpool": "a maximum goes where the pooling mask says",
        "nearest": "each pixel is repeated",
    },
    "Warp": {
        "coordinates": "LiteFlowNet: the second bottom holds columns and rows",
        "flow": "PWC-Net: the second bottom is added to each pixel's own place",
    },
}
"""Layer types with several meanings: each meaning by its name, with what it is."""


def check_dialects(chosen: Mapping[str, str]) -> None:
    """Raises ConversionError with every unknown type and meaning in `chosen`."""
    problems = []
    for type_, meaning in chosen.items():
        known = DIALECTS.get(type_)
        if known is None:
            text = f"{type_!r} is no layer type with several meanings"
            problems.append(Problem(text + closest(type_, DIALECTS)))
        elif meaning not in known:
            text = f"{meaning!r} is no meaning of {type_}: {listed(type_)}"
            problems.append(Problem(text))
    if problems:
        raise ConversionError(problems)


def listed(type_: str) -> str:
    """The meanings of a layer type as text: `bvlc (...), auto (...)`."""
    return ", ".join(f"{name} ({what})" for name, what in DIALECTS[type_].items())


def choice_note(type_: str, meaning: str, why: str) -> str:
    """The note that the net itself decides the meaning of a type."""
    return f"{type_} taken as {meaning!r}: {why}; --dialect {type_}=... overrides"


def undecided(type_: str) -> str:
    """The error that nothing decides the meaning of a type."""
    return (
        f"{type_} has several meanings, and nothing here tells which: "
        f"{listed(type_)}. Choose one with --dialect {type_}=MEANING"
    )


MACHINE = "a choice of algorithm, precision or memory"
RATES = "how weights are trained"
TRAINING = "training on several machines or cards"
IMAGES = "preparing images, which is the caller's part"

WITHOUT_EFFECT: Mapping[str, Mapping[str, str]] = {
    "the net": {
        **dict.fromkeys(
            (
                "engine",
                "compile_net_state",
                "default_forward_type",
                "default_backward_type",
                "default_forward_math",
                "default_backward_math",
                "default_conv_algos_override",
                "default_cudnn_math_override",
                "eltwise_mem_sharing",
                "profile_info",
                "mem_param",
                "optimize_mem",
            ),
            MACHINE,
        ),
        **dict.fromkeys(
            (
                "global_grad_scale",
                "global_grad_scale_adaptive",
                "reduce_buckets",
                "multinode",
                "bn_stats_batch_size",
            ),
            TRAINING,
        ),
    },
    "layer": {
        **dict.fromkeys(
            (
                "engine",
                "forward_type",
                "backward_type",
                "forward_math",
                "backward_math",
                "cudnn_math_override",
                "debug",
                "quantization_param",
                "trt_param",
                "need_backward",
            ),
            MACHINE,
        ),
        **dict.fromkeys(
            ("multinode", "mn_activation_param", "mn_grad_compress_param"), TRAINING
        ),
    },
    "convolution_param": dict.fromkeys(
        (
            "cudnn_convolution_algo_seeker",
            "conv_algos_override",
            "conv_algorithm",
            "fusion_type",
        ),
        MACHINE,
    ),
    "pooling_param": {"norm_region": "the field of another layer type"},
    "concat_param": {"engine": MACHINE},
    "eltwise_param": {"engine": MACHINE},
    "inner_product_param": {"engine": MACHINE},
    "scale_param": {"engine": MACHINE},
    "batch_norm_param": {"engine": MACHINE, "stats_batch_size": TRAINING},
    "dropout_param": {"engine": MACHINE, "random_seed": TRAINING},
}
"""Fields of forks that do not change what a net computes, by message, and what each is
about; any other unknown field is an error, except in layers that read data."""
