"""Nodes -> the assignments of `__init__` and the statements of `__call__`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.calls import Assignment, assignments, passed_on
from caffe2flax.codegen.classes import Classes, built, written
from caffe2flax.codegen.names import Namespace, attribute_names
from caffe2flax.codegen.positions import CallPosition
from caffe2flax.codegen.sharing import Ties
from caffe2flax.codegen.statements import (
    Statement,
    commented,
    dictionary,
    lines,
    section,
    shape_checks,
)
from caffe2flax.codegen.variables import Labels, name_variables
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import EndsSection, Stochastic, WritesMethod
from caffe2flax.ir.call import Call, arguments, literal
from caffe2flax.ir.graph import Graph, Node, Value, Weight
from caffe2flax.ir.layer import Site

DEEPEST = 8
"""Calls inside one another; Python's parser ends at a hundred or two."""


@dataclass(slots=True)
class Body:
    """The modules of a class and its calls, for the nodes of `graph`.

    attributes: the attribute of each node's nnx module, by the node's number.
    built: what makes each nnx module. statements: the calls.
    """

    graph: Graph
    initialise: bool
    labels: Labels | None = None
    modules: Body | None = None
    """Another body of the class: what it has built serves this one, too, and what this
    one builds beside that is added to it."""
    attributes: dict[int, str] = field(default_factory=dict)
    sites: dict[int, Site] = field(default_factory=dict)
    variables: Mapping[Value, str] = field(default_factory=dict)
    built: list[Assignment] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    """The lines of the methods of layers, indented."""
    states: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Key and variable of the state that a node carries to the next call, by number."""
    tied: dict[str, dict[str, str]] = field(default_factory=dict)
    """For an attribute, expressions of the variables that belong to another module."""
    calls_at: dict[int, CallPosition] = field(default_factory=dict)
    """By the node's number; those of one statement from the inside out."""
    _pending: dict[Value, str] = field(default_factory=dict)
    """Expressions of values that are not assigned, but nested where they are read."""
    _starts: dict[Value, Value] = field(default_factory=dict)
    """The value that a chain of in-place layers started from."""
    _inside: dict[Value, dict[int, str]] = field(default_factory=dict)
    """The nodes whose calls are in a pending expression, and their expressions."""

    zeros: bool = False
    """As `Site.zeros`."""
    classes: Sequence[Classes] = ()
    """Numbers of classes that are arguments of the class."""
    uses: Mapping[Weight, int] = field(default_factory=dict)
    """How many nodes of the class have each weight; by default, of `graph`."""
    names: Namespace = field(default_factory=attribute_names)
    """For attributes."""
    _made: dict[object, str] = field(default_factory=dict)
    _known: dict[int, tuple[object, str]] = field(default_factory=dict)
    """What each node's nnx module is, and its attribute, by the node's number."""
    _ties: Ties = field(default_factory=lambda: Ties({}))

    def __post_init__(self) -> None:
        if not self.variables:
            self.variables, self.states = name_variables(self.graph, self.labels)
        if not self.uses:
            nodes = self.graph.nodes
            self.uses = Counter(w for node in nodes for w in node.weights)
        self._ties = Ties(self.uses)
        for each in self.classes:
            if each.called:
                self.names.take(each.name)
        if self.modules is not None:
            self._share(self.modules)
        self._build()
        self._state()

    def _share(self, other: Body) -> None:
        self.built, self.methods, self.tied = other.built, other.methods, other.tied
        self.initialise, self.zeros = other.initialise, other.zeros
        self.names, self._ties = other.names, other._ties
        self._made, self._known = other._made, other._known

    def _built_before(self, node: Node, module: object) -> bool:
        """Whether another body of the class has built the node's nnx module. Raises
        ConversionError where that one has the weights in another form."""
        if node.number not in self._known:
            return False
        known, attribute = self._known[node.number]
        if known == module:
            self.attributes[node.number] = attribute
            return True
        if not node.weights:
            return False
        text = f"layer {node.name!r} is not the same in TRAIN and in TEST"
        raise ConversionError(Problem(text, node.span, "unsupported"))

    @property
    def passed_on(self) -> tuple[str, ...]:
        """Arguments of the class that it hands to its modules as they are."""
        return passed_on(self.built)

    @property
    def is_random(self) -> bool:
        """Whether its `__call__` takes `rngs`."""
        return any(map(_takes_rngs, self.graph.nodes))

    def _build(self) -> None:
        """Every nnx module, each shared one once."""
        names, made, ties = self.names, self._made, self._ties
        for node in self.graph.nodes:
            site = self._site(node)
            if isinstance(node.layer, WritesMethod):
                if not self._built_before(node, node.layer):
                    self._add_method(node, node.layer, names.claim(node.name))
                    added = node.layer, self.attributes[node.number]
                    self._known.setdefault(node.number, added)
                continue
            call = built(self.classes, node, site)
            if call is None:
                continue
            operands = (*site.inputs, *site.outputs)
            module = str(call), tuple(operand.layout for operand in operands)
            if self._built_before(node, module):
                continue
            key = (node.weights, str(call), ties.arrangement(node, site))
            shared = made.get(key) if node.weights else None
            label = self.labels.nodes.get(node.number) if self.labels else None
            attribute = shared or names.claim(label or node.name)
            self.attributes[node.number] = attribute
            self._known.setdefault(node.number, (module, attribute))
            if shared is None:
                made[key] = attribute
                views = ties.add(node, site, attribute)
                if views:
                    self.tied[attribute] = views
                    call = _without(call, views)
                self.built.append(Assignment.of(attribute, call))

    def _add_method(self, node: Node, layer: WritesMethod, name: str) -> None:
        taken = [self.variables[value] for value in node.inputs]
        if len(set(taken)) < len(taken) or "self" in taken:
            taken = [f"x{i}" for i in range(len(taken))]
        self.attributes[node.number] = name
        text = layer.write_method(name, taken, self.sites[node.number])
        self.methods += ["", *(f"    {line}".rstrip() for line in text.splitlines())]

    def _site(self, node: Node) -> Site:
        site = Site(
            tuple(self.graph.operand(value) for value in node.inputs),
            tuple(self.graph.operand(value) for value in node.outputs),
            initialise=self.initialise,
            zeros=self.zeros,
        )
        self.sites[node.number] = site
        return site

    def _state(self) -> None:
        readers = self.graph.readers()
        for node in self.graph.nodes:
            nested = [v for v in node.inputs if v in self._pending]
            expression = written(self.classes, node, self._call_site(node))
            if any(expression.count(self._pending[v]) > 1 for v in nested):
                for v in nested:
                    text = self._pending.pop(v)
                    self._place(self._inside.pop(v))
                    self.statements.append(Statement((self.variables[v],), text))
                expression = written(self.classes, node, self._call_site(node))
            inside: dict[int, str] = {}
            for v in nested:
                self._pending.pop(v, None)
                inside |= self._inside.pop(v, {})
            inside[node.number] = expression
            value = node.outputs[0]
            self._starts[value] = self._start(node, nested)
            shallow = len(inside) < DEEPEST
            if shallow and self._nests(node, readers.get(value, ()), expression):
                self._pending[value] = expression
                self._inside[value] = inside
                continue
            self._place(inside)
            current = self.statements[-1].section if self.statements else ""
            self.statements.append(
                Statement(
                    self._targets(node),
                    expression,
                    self._comment(node),
                    self._section(node, current),
                    isinstance(node.layer, EndsSection),
                )
            )

    @staticmethod
    def _section(node: Node, current: str) -> str:
        """Calls of one section come together, as those of blocks do."""
        if isinstance(node.layer, BlockCall):
            return "blocks"
        return section(node.outputs[0].blob, current)

    def _place(self, expressions: Mapping[int, str]) -> None:
        """Records that the next statement makes these calls."""
        at = len(self.statements)
        self.calls_at |= {n: CallPosition(at, text) for n, text in expressions.items()}

    def _targets(self, node: Node) -> tuple[str, ...]:
        tops = tuple(self.variables[value] for value in node.outputs)
        carried = self.states.get(node.number)
        return (*tops, f"*{carried[1]}") if carried else tops

    def _call_site(self, node: Node) -> Site:
        site = self.sites[node.number]
        attribute = self.attributes.get(node.number, "")
        module = f"self.{attribute}"
        key, _ = self.states.get(node.number, ("", ""))
        if attribute in self.tied:
            module = f"tied({arguments(module, **self.tied[attribute])})"
        return Site(
            site.inputs,
            site.outputs,
            module,
            tuple(map(self._argument, node.inputs, self._stopped(node))),
            site.initialise,
            state=f"*state.get({literal(key)}, ())" if key else "",
        )

    def _argument(self, value: Value, stopped: bool) -> str:
        text = self._pending.get(value) or self.variables[value]
        return f"lax.stop_gradient({text})" if stopped else text

    def _stopped(self, node: Node) -> tuple[bool, ...]:
        """For each input, whether `propagate_down: false` keeps gradients from it."""
        if self.graph.phase != "TRAIN" or not node.propagate_down:
            return (False,) * len(node.inputs)
        return tuple(not down for down in node.propagate_down)

    def _nests(self, node: Node, following: tuple[Node, ...], expression: str) -> bool:
        """Whether the call goes inside of another: where an in-place layer is all that
        reads this output, or where it would only be another name of its input."""
        if len(node.outputs) != 1 or len(following) != 1 or node.carried:
            return False
        value = node.outputs[0]
        if value in self.graph.returned:
            return False
        if expression in map(self.variables.get, node.inputs):
            return True
        tops = following[0].outputs
        return any(top.blob == value.blob for top in tops)

    def _start(self, node: Node, nested: list[Value]) -> Value:
        """The first input of the innermost call of the node's statement."""
        if not node.inputs:
            return node.outputs[0]
        value = node.inputs[0]
        return self._starts[value] if value in nested else value

    def _comment(self, node: Node) -> str:
        """The shape, where the layer changed it."""
        if len(node.outputs) != 1:
            return ""
        after = self.graph.operand(node.outputs[0])
        start = self._starts[node.outputs[0]]
        if node.inputs and self.graph.operand(start).emitted == after.emitted:
            return ""
        return f"({after.describe()}{',' if len(after.shape) == 1 else ''})"

    def init_lines(self, parameters: Iterable[str]) -> list[str]:
        """The lines of an `__init__` with these parameters, indented."""
        made = assignments(self.built, parameters)
        kept = (f"self.{e.name} = {e.name}" for e in self.classes if e.called)
        return [f"        {line}" if line else "" for line in (*kept, *made)]

    @property
    def result_is_last(self) -> bool:
        """Whether what the last statement assigns is all that is returned."""
        outputs = tuple(self.variables[value] for value in self.graph.outputs)
        last = self.statements[-1].targets if self.statements else ()
        return len(outputs) == 1 and not self.graph.taps and last == outputs

    def named_result(self) -> tuple[list[Statement], str]:
        """The statements, and a dictionary of the outputs by blob; what only computes
        an output goes into it."""
        statements = list(self.statements)
        variables = dict(self.variables)
        read = {value for node in self.graph.nodes for value in node.inputs}
        last = [v for v in self.graph.outputs if v not in read]
        for value in reversed(last):
            at = [s for s in statements if s.targets == (variables[value],)]
            if at and at[-1] is statements[-1]:
                variables[value] = statements.pop().expression
        return statements, dictionary(self.graph.outputs, variables)

    def call_lines(self, *, comments: bool = True, checks: bool = True) -> list[str]:
        """The lines of `__call__` behind its signature, indented; with `checks` of the
        shapes of its arguments, unless it is a block's."""
        statements = list(self.statements)
        result = self._result(statements)
        checked = (
            []
            if self.labels or not checks
            else shape_checks(self.graph, self.variables)
        )
        called = lines(statements, comments=comments)
        if self.states:
            taken = (f"{literal(key)}: {name}" for key, name in self.states.values())
            first = f"({result})" if self.graph.taps else result
            result = f"{first}, {{{', '.join(taken)}}}"
        shown = comments and self.result_is_last
        comment = self.statements[-1].comment if shown else ""
        return [*checked, *called, *commented(f"return {result}", comment)]

    def _result(self, statements: list[Statement]) -> str:
        """What is returned; the last statement goes into it where that is the only
        output."""
        outputs, taps = self.graph.outputs, self.graph.taps
        if self.result_is_last:
            return statements.pop().expression
        if len(outputs) == 1:
            shown = self.variables[outputs[0]]
        else:
            shown = dictionary(outputs, self.variables)
        return f"{shown}, {dictionary(taps, self.variables)}" if taps else shown


def _takes_rngs(node: Node) -> bool:
    layer = node.layer
    if isinstance(layer, BlockCall):
        return layer.random
    return isinstance(layer, Stochastic) and layer.takes_rngs


def _without(call: Call, names: Iterable[str]) -> Call:
    """The module without variables that belong to another."""
    inner = replace(call, comment="")
    return Call("without", (inner, *names), comment=call.comment)
