"""Message -> Graph: reads every layer, connects the blobs, reports all problems at
once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffe2flax.errors import ConversionError, Problem, Span, closest, unknown
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.upgrade.v1 import type_of_enum
from caffe2flax.ir.abilities import Source, WritesMethod
from caffe2flax.ir.common_fields import (
    COMMON_FIELDS,
    check_blobs,
    read_loss_weights,
    read_specs,
    read_transform,
    read_type,
)
from caffe2flax.ir.graph import CallerShapes, Graph, Node, Remarks, Value
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.refused import REFUSED
from caffe2flax.ir.registry import LAYERS, PARAMETERS, find_layer, find_variant
from caffe2flax.ir.transform import Transform
from caffe2flax.options import one_or_more


def build(
    net: Message,
    *,
    phase: str = "TEST",
    caller_shapes: CallerShapes,
    taps: Sequence[str] | str = (),
    until: Sequence[str] = (),
    dialects: Mapping[str, str] | None = None,
    stub: type[Layer] | None = None,
    name: str = "",
    left_out: Mapping[str, str] | None = None,
) -> Graph:
    """The graph of an upgraded and filtered net. `name` is the default for a net
    without a name; `stub` is the class for unknown types, if any. `until`: the blobs
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
        types=_texts(net, "type"),
        declared=frozenset(f.name for f in net.fields),
    )
    params.ignore("layer", "state", "debug_info")
    net_name = params.get("name", "") or name
    builder = _Builder(
        phase,
        _texts(net, "top"),
        force_backward=params.get("force_backward", False),
        stub=stub,
        left_out=left_out or {},
    )
    params.problems, params.notes = builder.problems, builder.notes
    for layer in params.subs("layer"):
        builder.add(layer)
    params._report_unread()
    builder.report_unsupported()
    builder.check_in_place()
    if not builder.nodes and not builder.sources and not builder.problems:
        builder.problems.append(Problem("the file holds no layers", net.span))
    builder.check_input_shapes(caller_shapes.input_shapes)
    tapped = builder.find_taps(taps)
    if builder.problems:
        raise ConversionError(builder.problems)
    return Graph(
        name=net_name,
        phase=phase,
        inputs=tuple(builder.sources),
        nodes=tuple(builder.nodes),
        outputs=tuple(builder.latest[blob] for blob in until) or builder.outputs(),
        blobs=dict(builder.latest),
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
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By blob, which layer makes it that the filter left out, and how to keep that."""
    nodes: list[Node] = field(default_factory=list)
    sources: list[Node] = field(default_factory=list)
    latest: dict[str, Value] = field(default_factory=dict)
    reads: Counter[Value] = field(default_factory=Counter)
    overwritten: dict[Value, tuple[str, Span]] = field(default_factory=dict)
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
        inputs = self._connect(bottoms, name, params)
        outputs = self._produce(tops, bottoms, inputs, name, message.span)
        params.transform = read_transform(params)
        layer = self._parse(params, type_, bottoms, tops)
        if layer is None:
            return
        if params.transform is not None:
            self._prepare(params.transform, tops[0] if tops else name)
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

    def _connect(
        self, bottoms: Sequence[str], name: str, params: Params
    ) -> tuple[Value, ...]:
        inputs = []
        for blob, span in zip(bottoms, _fields(params, "bottom"), strict=False):
            value = self.latest.get(blob)
            if value is None:
                hint = closest(blob, self.latest, self.problems)
                hint = self.left_out.get(blob) or f"which no layer makes{hint}"
                text = f"layer {name!r} reads blob {blob!r}, {hint}"
                self.problems.append(Problem(text, span))
                value = self.latest.setdefault(blob, Value(blob))
            self.reads[value] += 1
            inputs.append(value)
        return tuple(inputs)

    def _produce(
        self,
        tops: Sequence[str],
        bottoms: Sequence[str],
        inputs: Sequence[Value],
        name: str,
        span: Span,
    ) -> tuple[Value, ...]:
        outputs = []
        for i, blob in enumerate(tops):
            in_place = i < len(bottoms) and bottoms[i] == blob
            old = self.latest.get(blob)
            if old is not None and not in_place:
                self._report_duplicate(blob, name, span)
            if in_place:
                self.overwritten[inputs[i]] = (name, span)
            value = Value(blob, old.version + 1 if old else 0)
            self.latest[blob] = value
            outputs.append(value)
        return tuple(outputs)

    def _report_duplicate(self, blob: str, name: str, span: Span) -> None:
        text = f"layer {name!r} makes blob {blob!r}, which another layer makes already"
        self.problems.append(Problem(text, span))

    def check_in_place(self) -> None:
        """An in-place layer must be the only reader of its bottom: Caffe splits a blob
        with several readers into copies."""
        for value, (name, span) in self.overwritten.items():
            if self.reads[value] > 1:
                text = (
                    f"layer {name!r} overwrites blob {value.blob!r}, which another "
                    "layer reads too (in Caffe: produced by multiple sources)"
                )
                self.problems.append(Problem(text, span))

    def _parse(
        self, params: Params, type_: str, bottoms: Sequence[str], tops: Sequence[str]
    ) -> Layer | None:
        cls = find_layer(type_, len(bottoms)) or (self.stub if type_ else None)
        if cls is None:
            params.ignore(*(f.name for f in _message(params).fields))
            if not type_:
                params.error(None, "the layer has no type")
                return None
            self.unsupported.setdefault(type_, []).append(
                params.span("type") or Span("")
            )
            return None
        own, *others = PARAMETERS.get(type_) or ("",)
        known = {name for names in PARAMETERS.values() for name in names}
        params.ignore(*COMMON_FIELDS, *others)
        for name in dict.fromkeys(f.name for f in _message(params).fields):
            if name in known and name not in (own, *others):
                params.ignore(name)
                self._note(params, f"{name} has no meaning in a {type_} layer")
        params.bottoms, params.tops = len(bottoms), len(tops)
        params.bottom_types = tuple(self.blob_types.get(blob, "") for blob in bottoms)
        self.blob_types.update(dict.fromkeys(tops, type_))
        params.in_place = bool(set(bottoms) & set(tops))
        params.phase = params.choice("phase", "TRAIN", "TEST", default=self.phase)
        params.notes = self.notes
        bare = replace(params, name=type_, message=None, parent=params)
        main = params.sub(own) if own else bare
        cls = find_variant(type_, main) or cls
        check_blobs(params, type_, cls, bottoms, tops)
        before = len(params.problems)
        try:
            layer = cls.parse(main)
        except ConversionError as error:
            self.problems += [problem.at(params.span()) for problem in error.problems]
            layer = None
        found = self.problems[before:]
        if self.stub and found and all(p.kind == "unsupported" for p in found):
            del self.problems[before:]
            return self.stub.parse(bare)
        if layer is None:
            return None
        if type(layer) is not cls:  # one of several meanings of the type
            check_blobs(params, type_, type(layer), bottoms, tops)
        if params.in_place and not layer.in_place:
            params.error(None, f"a {type_} layer cannot work in place")
        return layer if len(params.problems) == before else None

    def _note(self, params: Params, text: str) -> None:
        self.notes.append(
            f"{params.span()}: {text}; Caffe passes it over, and so do we"
        )

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

    def find_taps(self, taps: Sequence[str] | str) -> tuple[Value, ...]:
        """The values that `taps` name; "all" is every blob that a layer computes."""
        computed = {v.blob: None for node in self.nodes for v in node.outputs}
        names = list(one_or_more(taps))
        if names == ["all"] and "all" not in self.latest:
            names = list(computed)
        for name in names:
            if name not in self.latest:
                text = f"no blob is called {name!r}{closest(name, self.latest)}"
                self.problems.append(Problem(text))
        return tuple(self.latest[name] for name in names if name in self.latest)

    def outputs(self) -> tuple[Value, ...]:
        """The values that no layer reads, inputs included, in the order of the file."""
        return tuple(v for v in self.latest.values() if not self.reads[v])


def _texts(net: Message, name: str) -> frozenset[str]:
    """The values of the field `name` of all layers."""
    layers = [f.value for f in net.all("layer") if isinstance(f.value, Message)]
    values = [f.value for layer in layers for f in layer.all(name)]
    return frozenset(text.text for text in values if isinstance(text, Scalar))


def _message(params: Params) -> Message:
    assert params.message is not None
    return params.message


def _fields(params: Params, name: str) -> Iterable[Span]:
    return (f.span for f in _message(params).all(name))
