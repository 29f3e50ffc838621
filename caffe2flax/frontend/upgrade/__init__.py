"""Nets of Caffe's older formats -> the current one, as Caffe itself upgrades them.

V0 `layers { layer { type: "conv" } }`, V1 `layers { type: CONVOLUTION }` and the header
`input:` all become V2 `layer { type: "Convolution" }`. Every field keeps its place, and
fields that nobody knows stay, to be reported where they are read.
"""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.upgrade.v0 import from_v0, is_v0
from caffe2flax.frontend.upgrade.v1 import from_v1, text_of, wrapped

_FILES = ("net", "train_net", "test_net")
INLINE_NETS = ("net_param", "train_net_param", "test_net_param")
_SOLVER = ("base_lr", "lr_policy", "max_iter", "solver_mode", "snapshot_prefix")


def upgrade(net: Message) -> Message:
    """`net` in the current format; one that is current already comes back equal.

    Raises ConversionError with every problem: `layer` beside `layers`, types and fields
    that the old format does not have, inputs whose shapes do not add up.
    """
    problems = _mixture(net)
    if is_v0(net):
        net, found = from_v0(net)
        problems += found
    fields = tuple(
        from_v1(f, problems) if f.name == "layers" else f for f in net.fields
    )
    fields = _with_input_layer(fields, problems)
    if problems:
        raise ConversionError(problems)
    return replace(net, fields=tuple(map(_fixed_batchnorm, fields)))


def _mixture(net: Message) -> list[Problem]:
    new, old = next(net.all("layer"), None), next(net.all("layers"), None)
    if new is None or old is None:
        return []
    text = (
        f"layer {{ ... }} does not go with layers {{ ... }} (line {old.span.line}): "
        "write all layers in the same format"
    )
    return [Problem(text, new.span)]


def _with_input_layer(
    fields: tuple[Field, ...], problems: list[Problem]
) -> tuple[Field, ...]:
    """The header `input:` as a layer of type Input before all others."""
    header = ("input", "input_dim", "input_shape")
    inputs, dims, shapes = ([f for f in fields if f.name == n] for n in header)
    rest = [f for f in fields if f.name not in header]
    if not inputs:
        for field in dims + shapes:
            text = f"{field.name} belongs to an input, and the net has none"
            problems.append(Problem(text, field.span))
        return fields
    if not (dims or shapes):
        inputs = _unmade(inputs, rest)
        if not inputs:
            return tuple(rest)
    if dims and (shapes or len(dims) != 4 * len(inputs)):
        text = f"{len(inputs)} inputs need {4 * len(inputs)} input_dim, not {len(dims)}"
        if shapes:
            text = "input_dim and input_shape exclude each other"
        problems.append(Problem(text, dims[0].span))
        return fields
    if shapes and len(shapes) != len(inputs):
        text = f"{len(inputs)} inputs need as many input_shape, not {len(shapes)}"
        problems.append(Problem(text, shapes[0].span))
        return fields
    for i in range(0, len(dims), 4):
        group = [replace(f, name="dim") for f in dims[i : i + 4]]
        shapes.append(wrapped("shape", group))
    span = inputs[0].span
    given = [replace(f, name="shape") for f in shapes]
    layer = (
        Field("name", Scalar("string", "input", span), span),
        Field("type", Scalar("string", "Input", span), span),
        *(replace(f, name="top") for f in inputs),
        *([wrapped("input_param", given)] if given else ()),
    )
    first = next((i for i, f in enumerate(rest) if f.name == "layer"), len(rest))
    rest.insert(first, Field("layer", Message(layer, span), span))
    return tuple(rest)


def _unmade(inputs: list[Field], rest: list[Field]) -> list[Field]:
    """Caffe forgets inputs without shapes, which is sound where a layer makes the blob;
    the others keep a layer, whose missing shape the caller may give."""
    made = {
        top.value.text
        for f in rest
        if f.name == "layer" and isinstance(f.value, Message)
        for top in f.value.all("top")
        if isinstance(top.value, Scalar)
    }
    return [
        f for f in inputs if not (isinstance(f.value, Scalar) and f.value.text in made)
    ]


def _fixed_batchnorm(field: Field) -> Field:
    """Old nets froze the statistics of BatchNorm by hand; the layer does so now."""
    layer = field.value
    if field.name != "layer" or not isinstance(layer, Message):
        return field
    if text_of(layer, "type") != "BatchNorm" or len(list(layer.all("param"))) != 3:
        return field
    fields = tuple(_frozen(f) if f.name == "param" else f for f in layer.fields)
    return replace(field, value=replace(layer, fields=fields))


def _frozen(param: Field) -> Field:
    if not isinstance(param.value, Message):
        return param
    names = ("lr_mult", "decay_mult")
    kept = [f for f in param.value.fields if f.name not in names]
    zero = Scalar("number", "0", param.span)
    kept += [Field(name, zero, param.span) for name in names]
    return replace(param, value=replace(param.value, fields=tuple(kept)))


def inline_net(message: Message, *, phase: str = "TEST") -> Message | None:
    """The net that a solver file holds for `phase`; None when `message` is a net.

    The solver's `train_state` or `test_state` joins the net's `state`. A net that the
    solver names as a file is not opened: ConversionError asks for that file, also when
    the solver has no net for the phase, or several.
    """
    if message.has("layer") or message.has("layers"):
        return None
    if not any(message.has(name) for name in (*_FILES, *INLINE_NETS, *_SOLVER)):
        return None
    own = "train" if phase == "TRAIN" else "test"
    nets = list(message.all(f"{own}_net_param")) or list(message.all("net_param"))
    if not nets:
        raise ConversionError(_missing(message, phase))
    if len(nets) > 1:
        text = f"the solver has several {nets[0].name}; give one as a file of its own"
        raise ConversionError(Problem(text, nets[1].span, "ambiguous"))
    net = nets[0].value
    states = list(message.all(f"{own}_state"))
    problems = [
        Problem(f"{field.name} is a message: write {field.name} {{ ... }}", field.span)
        for field in (nets[0], *states)
        if not isinstance(field.value, Message)
    ]
    if len(states) > 1:
        text = f"the solver has several {own}_state; give the net as a file of its own"
        problems.append(Problem(text, states[1].span, "ambiguous"))
    if problems or not isinstance(net, Message):
        raise ConversionError(problems)
    joined = tuple(replace(state, name="state") for state in states)
    return replace(net, fields=(*net.fields, *joined))


def _missing(solver: Message, phase: str) -> Problem:
    own = "train_net" if phase == "TRAIN" else "test_net"
    named: Field | None = None
    for name in (own, "net", *_FILES):
        named = named or next(solver.all(name), None)
    if named is not None:
        text = (
            "this is a solver, and the net that it names is not opened: pass its file"
        )
        return Problem(text, named.span, "ambiguous")
    text = f"this is a solver without a net for phase {phase}"
    return Problem(text, solver.span, "ambiguous")
