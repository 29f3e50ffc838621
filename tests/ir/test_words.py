"""One mistake, one error, with the right suggestion; and the range of every integer."""

from collections.abc import Iterator

import pytest

import caffe2flax
from caffe2flax.frontend.descriptors import PARAMS, schema
from caffe2flax.frontend.scalar import INTEGERS
from caffe2flax.layers import register_all

HEAD = 'input: "x" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


def messages(text: str, **options: object) -> list[str]:
    """What is said of a net with the input `x`; nothing where it converts."""
    try:
        caffe2flax.convert(HEAD + text, **options)  # type: ignore[arg-type]
    except caffe2flax.ConversionError as error:
        return [p.message if p.line else "no line" for p in error.problems]
    return []


def convolution(fields: str) -> str:
    own = f"convolution_param {{ {fields} }}"
    return f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" {own} }}'


def typed(type_: str) -> str:
    own = "convolution_param { num_output: 4 kernel_size: 3 }"
    return f'layer {{ name: "c" {type_} bottom: "x" top: "c" {own} }}'


UNKNOWN = "unknown field {} in {}; did you mean {}?"
ONE_ERROR = {
    "short name": (
        convolution("num_output: 4 kernel: 3"),
        UNKNOWN.format("kernel", "convolution_param", "kernel_size"),
    ),
    "plural": (
        convolution("num_outputs: 4 kernel_size: 3"),
        UNKNOWN.format("num_outputs", "convolution_param", "num_output"),
    ),
    "kernel of a pooling": (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" '
        "pooling_param { kernel: 3 } }",
        UNKNOWN.format("kernel", "pooling_param", "kernel_size"),
    ),
    "message": (
        convolution("num_output: 4 kernel_size: 3").replace("_param", "_parm"),
        UNKNOWN.format("convolution_parm", "layer", "convolution_param"),
    ),
    "bottom": (
        convolution("num_output: 4 kernel_size: 3").replace("bottom", "botom"),
        UNKNOWN.format("botom", "layer", "bottom"),
    ),
    "quoted number": (
        convolution('num_output: "4" kernel_size: 3'),
        "num_output is an integer, not '4'; leave out the quotes",
    ),
    "quoted kernel": (
        convolution('num_output: 4 kernel_h: "3" kernel_w: 3'),
        "kernel_h is an integer, not '3'; leave out the quotes",
    ),
    "word for a number": (
        convolution("num_output: four kernel_size: 3"),
        "num_output is an integer, not four",
    ),
    "real number": (
        convolution("num_output: 4.0 kernel_size: 3"),
        "num_output is an integer, not 4.0",
    ),
    "quoted bool": (
        convolution('num_output: 4 kernel_size: 3 bias_term: "true"'),
        "bias_term is true or false, not 'true'; leave out the quotes",
    ),
    "quoted word": (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" '
        'pooling_param { pool: "MAX" kernel_size: 2 } }',
        "pool is one of MAX, AVE, STOCHASTIC, AVE_EXC_PAD, AVE_TF, not 'MAX'; "
        "leave out the quotes",
    ),
    "name without quotes": (
        'layer { name: r type: "ReLU" bottom: "x" top: "r" }',
        'name is a string, not r; write "r"',
    ),
    "enum of V1": (
        typed("type: CONVOLUTION"),
        'type is a string in quotes: write type: "Convolution"',
    ),
    "number of V1": (
        typed("type: 4"),
        'type is a string in quotes: write type: "Convolution"',
    ),
    "enum of V1 in quotes": (
        typed('type: "CONVOLUTION"'),
        "layer type CONVOLUTION is not supported; did you mean Convolution?",
    ),
    "another enum in quotes": (
        typed('type: "INNER_PRODUCT"'),
        "layer type INNER_PRODUCT is not supported; did you mean InnerProduct?",
    ),
    "type without quotes": (
        typed("type: Convolution"),
        'type is a string in quotes: write type: "Convolution"',
    ),
    "misspelt type without quotes": (
        typed("type: Convolutoin"),
        'type is a string in quotes: write type: "Convolutoin"; '
        "did you mean Convolution?",
    ),
    "no type": (typed(""), "the layer has no type"),
    "empty type": (typed('type: ""'), "the layer has no type"),
}


@pytest.mark.parametrize(("net", "message"), ONE_ERROR.values(), ids=ONE_ERROR)
def test_one_error(net: str, message: str) -> None:
    assert messages(net) == [message]


def test_what_is_missing_is_said_beside_other_problems() -> None:
    said = messages(convolution("kernel_size: 4 colour: 3"))
    needed = "convolution_param needs num_output; a file of weights may give it, too"
    assert needed in said
    assert len(said) == 2


MADE = "layer 's' reads blob 'h', which layer 'r' (line 2) makes, but not here: "
STAGES = {
    'include { stage: "go" }': "give --stage go",
    "include { phase: TRAIN }": "give --phase TRAIN",
    'include { phase: TRAIN stage: "b" stage: "a" min_level: 2 }': (
        "give --phase TRAIN --stage a --stage b --level 2"
    ),
    'include { phase: TRAIN stage: "b" } include { stage: "a" }': "give --stage a",
    "include { max_level: -1 }": "give --level -1",
    'include { not_stage: "here" }': "leave out --stage here",
    'include { not_stage: "here" stage: "a" }': (
        "give --stage a and leave out --stage here"
    ),
    "exclude { phase: TEST }": "an exclude rule of it holds",
}


@pytest.mark.parametrize(("rule", "said"), STAGES.items())
def test_a_blob_of_a_layer_that_is_left_out(rule: str, said: str) -> None:
    net = f'layer {{ name: "r" type: "ReLU" bottom: "x" top: "h" {rule} }}\n'
    net += 'layer { name: "s" type: "Sigmoid" bottom: "h" top: "s" }'
    assert messages(net, stages=("here",)) == [MADE + said]


def integer_fields() -> Iterator[tuple[str, str, str]]:
    """Layer type, path of its integer fields and their protobuf type."""
    messages_ = schema().messages
    of_layer = {f.name: f.refers for f in messages_["LayerParameter"].values()}
    for type_, (own, *_) in PARAMS.items():
        for field in messages_[of_layer[own]].values():
            if field.type in INTEGERS:
                yield type_, f"{own} {{ {field.name}: %s }}", field.type
    for message in ("loss_param", "transform_param"):
        for field in messages_[of_layer[message]].values():
            if field.type in INTEGERS:
                yield "SoftmaxWithLoss", f"{message} {{ {field.name}: %s }}", field.type


@pytest.mark.parametrize(("type_", "path", "kind"), list(integer_fields()))
def test_integers_are_held_to_their_type(type_: str, path: str, kind: str) -> None:
    """Whatever else is wrong with the layer, what protobuf's parser refuses is."""
    register_all()
    low, high = INTEGERS[kind]
    field = path.split()[2].removesuffix(":")
    for number in (low - 1, high + 1, hex(high + 1)):
        net = f'layer {{ name: "l" type: "{type_}" bottom: "x" top: "t" {path} }}'
        said = messages(net % number)
        text = f"{field} is an integer from {low} to {high}, not {number}"
        assert text in said, said


@pytest.mark.parametrize("number", ["0x2", "02", "2"])
def test_octal_and_hexadecimal(number: str) -> None:
    assert not messages(convolution(f"num_output: 4 kernel_size: {number}"))
