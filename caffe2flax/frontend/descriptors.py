"""Caffe's schema as tables: what each message and enum holds, and which a layer reads.

It is `grammars/caffe.binpb`, compiled from `grammars/caffe.proto`. Nothing is
registered with protobuf, so a process with another Caffe schema loaded stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from caffe2flax.frontend.grammars import grammar_path

PARAMS: Mapping[str, tuple[str, ...]] = {
    "Accuracy": ("accuracy_param",),
    "ArgMax": ("argmax_param",),
    "BatchNorm": ("batch_norm_param",),
    "Bias": ("bias_param",),
    "Clip": ("clip_param",),
    "Concat": ("concat_param",),
    "ContrastiveLoss": ("contrastive_loss_param",),
    "Convolution": ("convolution_param",),
    "ConvolutionDepthwise": ("convolution_param",),
    "Crop": ("crop_param",),
    "Data": ("data_param",),
    "Deconvolution": ("convolution_param",),
    "DepthwiseConvolution": ("convolution_param",),
    "Dropout": ("dropout_param",),
    "DummyData": ("dummy_data_param",),
    "ELU": ("elu_param",),
    "Eltwise": ("eltwise_param",),
    "Embed": ("embed_param",),
    "Exp": ("exp_param",),
    "Flatten": ("flatten_param",),
    "HDF5Data": ("hdf5_data_param",),
    "HDF5Output": ("hdf5_output_param",),
    "HingeLoss": ("hinge_loss_param",),
    "Im2col": ("convolution_param",),
    "ImageData": ("image_data_param",),
    "InfogainLoss": ("infogain_loss_param", "softmax_param"),
    "InnerProduct": ("inner_product_param",),
    "Input": ("input_param",),
    "LRN": ("lrn_param",),
    "LSTM": ("recurrent_param",),
    "Log": ("log_param",),
    "MVN": ("mvn_param",),
    "MemoryData": ("memory_data_param",),
    "PReLU": ("prelu_param",),
    "Parameter": ("parameter_param",),
    "Pooling": ("pooling_param",),
    "Power": ("power_param",),
    "Python": ("python_param",),
    "RNN": ("recurrent_param",),
    "ReLU": ("relu_param",),
    "Reduction": ("reduction_param",),
    "Reshape": ("reshape_param",),
    "SPP": ("spp_param",),
    "Scale": ("scale_param",),
    "Sigmoid": ("sigmoid_param",),
    "SigmoidCrossEntropyLoss": ("sigmoid_param",),
    "Slice": ("slice_param",),
    "Softmax": ("softmax_param",),
    "SoftmaxWithLoss": ("softmax_param",),
    "Swish": ("swish_param",),
    "TanH": ("tanh_param",),
    "Threshold": ("threshold_param",),
    "Tile": ("tile_param",),
    "WindowData": ("window_data_param",),
}
"""Layer type -> the messages it reads; types without any are left out."""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of a message: `type` is protobuf's word ("uint32", "enum", "message"),
    `refers` names the message or enum, `default` is empty where there is none."""

    name: str
    type: str
    repeated: bool
    refers: str
    default: str


@dataclass(frozen=True, slots=True)
class Schema:
    """Messages: name -> number -> field. Enums: name -> number -> word; the name of one
    that stands inside of a message is that message's, a dot, its own."""

    messages: Mapping[str, Mapping[int, FieldSpec]]
    enums: Mapping[str, Mapping[int, str]]


@cache
def schema() -> Schema:
    """The tables of `grammars/caffe.binpb`."""
    from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

    (file,) = descriptor_pb2.FileDescriptorSet.FromString(
        grammar_path("caffe.binpb").read_bytes()
    ).file
    prefix = f".{file.package}."
    enums = {
        each.name: {v.number: v.name for v in each.value} for each in file.enum_type
    }
    messages = {}
    for message in file.message_type:
        for each in message.enum_type:
            words = {v.number: v.name for v in each.value}
            enums[f"{message.name}.{each.name}"] = words
        messages[message.name] = {
            field.number: FieldSpec(
                field.name,
                descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)[
                    len("TYPE_") :
                ].lower(),
                field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
                field.type_name.removeprefix(prefix),
                field.default_value,
            )
            for field in message.field
        }
    return Schema(messages, enums)
