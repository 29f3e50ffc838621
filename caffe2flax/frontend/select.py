"""Which layers a net has in a phase, at a level, in some stages: include, exclude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.scalar import INTEGERS, converted, shown

_PHASES = {"TRAIN": "TRAIN", "TEST": "TEST", "0": "TRAIN", "1": "TEST"}
_STATE = ("phase", "level", "stage")
_RULE = ("phase", "min_level", "max_level", "stage", "not_stage")


@dataclass(frozen=True, slots=True)
class _State:
    """What a net is built for; of a rule, None where it does not say."""

    phase: str | None = None
    low: int | None = None
    high: int | None = None
    stages: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()


def select(
    net: Message, *, phase: str = "TEST", level: int = 0, stages: Sequence[str] = ()
) -> Message:
    """The V2 net `net` with those layers that its rules admit.

    A layer with `include` stays if one of them holds, one with `exclude` if none does.
    The net's own `state { ... }` adds its stages to `stages`; its phase and level give
    way to the caller's. `include`, `exclude` and `state` are gone from the result.

    Raises ConversionError with every problem: a layer with both kinds of rules, fields
    that rules do not have, values of the wrong type; ValueError for another phase.
    """
    if phase not in ("TRAIN", "TEST"):
        raise ValueError(f"phase is TRAIN or TEST, not {phase!r}")
    problems: list[Problem] = []
    state = _state(net, phase, level, stages, problems)
    fields = tuple(
        _without_rules(f)
        for f in net.fields
        if f.name != "state" and _admitted(f, state, problems)
    )
    if problems:
        raise ConversionError(problems)
    return replace(net, fields=fields)


def admits(
    net: Message,
    layers: Sequence[Field],
    *,
    phase: str,
    level: int,
    stages: Sequence[str],
) -> list[bool]:
    """Whether the net has each of `layers`; what is wrong with a rule, `select`
    tells."""
    problems: list[Problem] = []
    state = _state(net, phase, level, stages, problems)
    return [_admitted(layer, state, problems) for layer in layers]


def stage_names(net: Message) -> tuple[str, ...]:
    """The stages that the rules of the layers of the V2 net `net` name, in order."""
    found: dict[str, None] = {}
    for layer in net.all("layer"):
        if not isinstance(layer.value, Message):
            continue
        for rule in (*layer.value.all("include"), *layer.value.all("exclude")):
            if isinstance(rule.value, Message):
                named = (*rule.value.all("stage"), *rule.value.all("not_stage"))
                texts = (f.value.text for f in named if isinstance(f.value, Scalar))
                found |= dict.fromkeys(texts)
    return tuple(found)


def left_out(
    net: Message, *, phase: str, level: int, stages: Sequence[str]
) -> Mapping[str, str]:
    """The blobs of the layers that the net does not have here: for each, in words, the
    layer that makes it and what to give to have it."""
    problems: list[Problem] = []
    state = _state(net, phase, level, stages, problems)
    found: dict[str, str] = {}
    for field in net.fields:
        if field.name != "layer" or not isinstance(field.value, Message):
            continue
        tops = list(field.value.all("top"))
        if not tops or _admitted(field, state, problems):
            continue
        rules = [_read(rule, _RULE, problems) for rule in field.value.all("include")]
        name = next((n.value for n in field.value.all("name")), None)
        called = repr(name.text) if isinstance(name, Scalar) else "without a name"
        text = f"which layer {called} (line {field.span.line}) makes"
        text += ", but not here: " + _needed(state, rules)
        for top in tops:
            if isinstance(top.value, Scalar):
                found.setdefault(top.value.text, text)
    return found


def _needed(state: _State, rules: Sequence[_State]) -> str:
    """What the caller has to give for one of these rules to hold."""
    if not rules:
        return "an exclude rule of it holds"
    give, leave = min((_lacking(state, rule) for rule in rules), key=_length)
    said = [f"give {' '.join(give)}"] if give else []
    return " and ".join(said + [f"leave out {option}" for option in leave])


def _lacking(state: _State, rule: _State) -> tuple[list[str], list[str]]:
    """The options that a rule wants, and those that it does not want."""
    give = [f"--stage {stage}" for stage in sorted(rule.stages - state.stages)]
    if rule.phase not in (None, state.phase):
        give.insert(0, f"--phase {rule.phase}")
    level = state.low or 0
    if rule.low is not None and level < rule.low:
        give.append(f"--level {rule.low}")
    elif rule.high is not None and level > rule.high:
        give.append(f"--level {rule.high}")
    return give, [f"--stage {s}" for s in sorted(rule.banned & state.stages)]


def _length(options: tuple[list[str], list[str]]) -> int:
    return sum(map(len, options))


def _state(
    net: Message,
    phase: str,
    level: int,
    stages: Sequence[str],
    problems: list[Problem],
) -> _State:
    given = frozenset(stages)
    for field in net.all("state"):
        given |= _read(field, _STATE, problems).stages
    return _State(phase=phase, low=level, stages=given)


def _admitted(field: Field, state: _State, problems: list[Problem]) -> bool:
    if field.name != "layer" or not isinstance(field.value, Message):
        return True
    include = list(field.value.all("include"))
    exclude = list(field.value.all("exclude"))
    if include and exclude:
        text = "a layer has either include or exclude rules, not both"
        problems.append(Problem(text, exclude[0].span))
    rules = [_read(f, _RULE, problems) for f in include or exclude]
    met = any(_meets(state, rule) for rule in rules)
    return met if include else not met


def _meets(state: _State, rule: _State) -> bool:
    level = state.low or 0
    return (
        rule.phase in (None, state.phase)
        and (rule.low is None or level >= rule.low)
        and (rule.high is None or level <= rule.high)
        and rule.stages <= state.stages
        and not rule.banned & state.stages
    )


def _without_rules(field: Field) -> Field:
    layer = field.value
    if field.name != "layer" or not isinstance(layer, Message):
        return field
    kept = tuple(f for f in layer.fields if f.name not in ("include", "exclude"))
    if len(kept) == len(layer.fields):
        return field
    return replace(field, value=replace(layer, fields=kept))


def _read(field: Field, names: Sequence[str], problems: list[Problem]) -> _State:
    """A rule, or the net's state: the message of `field`, which has only `names`."""
    if not isinstance(field.value, Message):
        text = f"{field.name} is a message: write {field.name} {{ ... }}"
        problems.append(Problem(text, field.span))
        return _State()
    phase: str | None = None
    levels: dict[str, int | None] = {}
    stages: dict[str, set[str]] = {"stage": set(), "not_stage": set()}
    seen: set[str] = set()
    for inner in field.value.fields:
        name = inner.name
        problem = _wrong(inner, field.name, names, problems)
        if problem is None and name not in stages and name in seen:
            problem = Problem(f"{name} is given twice in {field.name}", inner.span)
        seen.add(name)
        if problem is not None:
            problems.append(problem)
            continue
        assert isinstance(inner.value, Scalar), "as _wrong saw to"
        if name == "phase":
            phase = _PHASES[inner.value.text]
        elif name in stages:
            stages[name].add(inner.value.text)
        else:
            levels[name] = _integer(inner.value)
    return _State(
        phase,
        levels.get("min_level"),
        levels.get("max_level"),
        frozenset(stages["stage"]),
        frozenset(stages["not_stage"]),
    )


def _wrong(
    field: Field, rule: str, names: Sequence[str], problems: Sequence[Problem]
) -> Problem | None:
    """What is wrong with one field of a rule."""
    name, value = field.name, field.value
    if name not in names:
        text = f"unknown field {name} in {rule}{closest(name, names, problems)}"
        return Problem(text, field.span)
    kind = value.kind if isinstance(value, Scalar) else None
    text = value.text if isinstance(value, Scalar) else ""
    if name == "phase":
        fits, wanted = kind != "string" and text in _PHASES, "TRAIN or TEST"
    elif name in ("stage", "not_stage"):
        fits, wanted = kind == "string", "a string in quotes"
    else:
        fits = isinstance(value, Scalar) and _integer(value) is not None
        wanted = "an integer"
    if fits:
        return None
    return Problem(f"{name} is {wanted}, not {shown(value)}", field.span)


def _integer(value: Scalar) -> int | None:
    low, high = INTEGERS["int32"]
    number = converted(value, int)
    return number if number is not None and low <= number <= high else None
