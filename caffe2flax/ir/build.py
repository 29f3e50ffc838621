"""Message -> Graph: reads every layer, connects the blobs, reports all problems at
once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffe2flax.errors import (
    ConversionError,
    Problem,
    Span,
    closest,
    is_misspelt,
    unknown,
)
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.upgrade.v1 import type_of_enum
from caffe2flax.ir.abilities import Source, WritesMethod
from caffe2flax.ir.blobs import Blobs
from caffe2flax.ir.common_fields import (
    read_loss_weights,
    read_specs,
    read_transform,
    read_type,
)
from caffe2flax.ir.dialects import IMAGES
from caffe2flax.ir.graph import CallerShapes, Graph, Node, Remarks, Value
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.read_layer import is_data, read_layer, read_metric
from caffe2flax.ir.refused import REFUSED
from caffe2flax.ir.registry import LAYERS, find_layer
from caffe2flax.ir.transform import Transform
from caffe2flax.ir.unread import report_unread


def build(
    net: Message,
    *,
    phase: str = "TEST",
    caller_shapes: CallerShapes,
    taps: Sequence[str] | str = (),
    until: Sequence[str] = (),
    dialects: Mapping[str, str] | None = None,
    stub: type[Layer] | None = None,
    training_only: type[Layer] | None = None,
    name: str = "",
    left_out: Mapping[str, str] | None = None,
) -> Graph:
    """The graph of an upgraded and filtered net. `name` is the default for a net
    without a name; `stub` is the class for unknown types, if any, and `training_only`
    that for what only compares with labels. `until`: the blobs
    that are its outputs, if not all that no layer reads. `left_out`: by blob, which
    layer makes it that the filter left out, and how to keep that.

    Raises ConversionError with the problems of all layers.
    """
    params = Params(
        "the net",
        net,
        phase=phase,
        dialects=dialects or {},
        shapes=caller_shapes.input_shapes,
        weights=caller_shapes.weight_shapes,
        types=_texts(net, "type"),
        declared=frozenset(f.name for f in net.fields),
    )
    params.ignore("layer", "state", "debug_info")
    net_name = params.get("name", "") or name
    blobs = Blobs(left_out or {})
    builder = _Builder(
        phase,
        _texts(net, "top"),
        force_backward=params.get("force_backward", False),
        stub=stub,
        training_only=training_only,
        bottom_names=_texts(net, "bottom"),
        blobs=blobs,
        problems=blobs.problems,
    )
    params.problems, params.notes = builder.problems, builder.notes
    for layer in params.subs("layer"):
        builder.add(layer)
    report_unread(params)
    builder.report_unsupported()
    blobs.check_in_place()
    if not builder.nodes and not builder.sources and not builder.problems:
        builder.problems.append(Problem("the file holds no layers", net.span))
    builder.check_input_shapes(caller_shapes.input_shapes)
    tapped = blobs.find_taps(builder.nodes, taps)
    if builder.problems:
        raise ConversionError(builder.problems)
    return Graph(
        name=net_name,
        phase=phase,
        inputs=tuple(builder.sources),
        nodes=tuple(builder.nodes),
        outputs=tuple(blobs.latest[blob] for blob in until) or blobs.outputs(),
        blobs=dict(blobs.latest),
        taps=tapped,
        transforms=builder.transforms,
        caller_shapes=caller_shapes,
        remarks=Remarks(tuple(builder.notes)),
    )


@dataclass(slots=True)
class _Builder:
    phase: str
    top_names: frozenset[str] = frozenset()
    """The names of all tops of the net."""
    force_backward: bool = False
    """Gradients flow to all bottoms: propagate_down is ignored."""
    stub: type[Layer] | None = None
    """The class for unknown types; None makes them an error."""
    training_only: type[Layer] | None = None
    """The class for layers at the end of the net that read labels and are not
    supported; None makes them an error."""
    bottom_names: frozenset[str] = frozenset()
    """The names of all bottoms of the net."""
    labels: set[Value] = field(default_factory=set)
    """What data layers read beside images, and what is computed of that alone."""
    blobs: Blobs = field(default_factory=Blobs)
    nodes: list[Node] = field(default_factory=list)
    sources: list[Node] = field(default_factory=list)
    unsupported: dict[str, list[Span]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    transforms: dict[str, Transform] = field(default_factory=dict)
    blob_types: dict[str, str] = field(default_factory=dict)
    """The type of the last layer so far that computes each blob."""
    count: int = 0

    def add(self, params: Params) -> None:
        """One `layer { ... }`."""
        message = params.message
        if message is None:
            return
        number, self.count = self.count, self.count + 1
        name = params.get("name", "")
        type_ = read_type(params)
        bottoms, tops = params.all("bottom", str), params.all("top", str)
        tops = tops or self._automatic_top(type_, name)
        inputs = self.blobs.connect(bottoms, name, params)
        outputs = self.blobs.produce(tops, bottoms, inputs, name, message.span)
        params.about = IMAGES if is_data(find_layer(type_, len(bottoms))) else ""
        params.transform = read_transform(params)
        ends = bool(self.labels & {*inputs}) and self.bottom_names.isdisjoint(tops)
        layer = self._parse(params, type_, bottoms, tops, ends=ends)
        if layer is None:
            return
        if inputs and self.labels.issuperset(inputs):
            self.labels.update(outputs)
        elif isinstance(layer, Source) and layer.training_data:
            self.labels.update(outputs[1:])
        if params.transform is not None:
            blob = tops[0] if tops else name
            self._prepare(params.transform.to(params.shapes.get(blob, ())), blob)
        downward = params.all("propagate_down", bool)
        if downward and len(downward) != len(bottoms):
            params.error("propagate_down", "give propagate_down once for each bottom")
        node = Node(
            name,
            layer,
            inputs,
            outputs,
            message.span,
            number,
            specs=read_specs(params),
            loss_weights=read_loss_weights(params, layer, len(tops)),
            propagate_down=() if self.force_backward else downward,
            type=type_,
        )
        (self.sources if isinstance(layer, Source) else self.nodes).append(node)

    def _prepare(self, transform: Transform, blob: str) -> None:
        self.transforms[blob] = transform
        self.notes += filter(None, [transform.note(blob, self.phase)])

    def _automatic_top(self, type_: str, name: str) -> tuple[str, ...]:
        """The top of a loss that names none. Caffe gives it a top without a name; here,
        in TRAIN, the top has the layer's name, so that the module can return it."""
        cls = LAYERS.get(type_)
        if cls is None or not cls.default_loss or self.phase != "TRAIN":
            return ()
        top = name or type_
        while top in self.top_names:
            top += "_loss"
        self.top_names |= {top}
        return (top,)

    def _parse(
        self,
        params: Params,
        type_: str,
        bottoms: Sequence[str],
        tops: Sequence[str],
        *,
        ends: bool,
    ) -> Layer | None:
        """The layer; None where it has a problem. `ends`: it reads labels, and nothing
        reads it."""
        cls = find_layer(type_, len(bottoms)) or (self.stub if type_ else None)
        if cls is None and ends and not self._is_misspelt(type_):
            cls = self.training_only
        if cls is None:
            params.ignore(*(f.name for f in _message(params).fields))
            if not type_:
                params.error(None, "the layer has no type")
                return None
            self.unsupported.setdefault(type_, []).append(
                params.span("type") or Span("")
            )
            return None
        params.bottom_types = tuple(self.blob_types.get(blob, "") for blob in bottoms)
        self.blob_types.update(dict.fromkeys(tops, type_))
        params.phase = params.choice("phase", "TRAIN", "TEST", default=self.phase)
        params.notes = self.notes
        dropped = self.training_only if ends and self.phase == "TEST" else None
        if cls.metric and dropped is not None:
            return read_metric(params, type_, cls, bottoms, tops, dropped)
        return read_layer(params, type_, cls, bottoms, tops, self.stub)

    def _is_misspelt(self, type_: str) -> bool:
        return not type_ or bool(type_of_enum(type_)) or is_misspelt(type_, LAYERS)

    def report_unsupported(self) -> None:
        """One problem for each unknown type."""
        for type_, spans in self.unsupported.items():
            reason = REFUSED.get(type_)
            modern = type_of_enum(type_)
            hint = f"; did you mean {modern}?" if modern else ""
            hint = hint or closest(type_, LAYERS, self.problems)
            kind = "unsupported" if reason else unknown(type_, hint)
            hint = f": {reason}" if reason else hint
            again = f" ({len(spans)} layers)" if len(spans) > 1 else ""
            text = f"layer type {type_} is not supported{again}{hint}"
            self.problems.append(Problem(text, spans[0], kind))

    def check_input_shapes(self, shapes: Mapping[str, Shape]) -> None:
        stubs = (n for n in self.nodes if isinstance(n.layer, WritesMethod))
        tops = [v.blob for node in (*self.sources, *stubs) for v in node.outputs]
        for blob in shapes:
            if blob not in tops:
                text = f"a shape is given for {blob!r}, which is no input of the net"
                self.problems.append(Problem(text + closest(blob, tops)))


def _texts(net: Message, name: str) -> frozenset[str]:
    """The values of the field `name` of all layers."""
    layers = [f.value for f in net.all("layer") if isinstance(f.value, Message)]
    values = [f.value for layer in layers for f in layer.all(name)]
    return frozenset(text.text for text in values if isinstance(text, Scalar))


def _message(params: Params) -> Message:
    assert params.message is not None
    return params.message
