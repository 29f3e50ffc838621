"""Nets of several stages, such as those of DIGITS: one file to train, test, deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe2flax.frontend.borrow_inputs import borrow_inputs
from caffe2flax.frontend.fused import split_relus
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.select import left_out, select, stage_names
from caffe2flax.frontend.snapshot import as_written
from caffe2flax.frontend.source import (
    NetSource,
    PathOrText,
    at_hand,
    carries_weights,
    read_net,
)
from caffe2flax.frontend.upgrade import inline_net, upgrade

DEPLOY = "deploy"
"""The stage in which DIGITS uses a net to predict."""


def whole_net(source: NetSource, phase: str) -> tuple[Message, tuple[str, ...]]:
    """The net in the current format, with the layers of all phases, and notes."""
    message, skipped = read_net(source)
    net = upgrade(inline_net(message, phase=phase) or message)
    net, split = split_relus(as_written(net) if carries_weights(source) else net)
    return net, (*skipped, *split)


def chosen_layers(
    source: NetSource, phase: str, level: int, stages: Sequence[str]
) -> tuple[Message, Mapping[str, str], tuple[str, ...]]:
    """The net with the layers of its phase, level and stages; the blobs of the others,
    as `left_out` says; and notes. Raises ConversionError."""
    net, skipped = whole_net(source, phase)
    staged = () if stages or net.has("state") else note_stages(net)
    net, borrowed = borrow_inputs(net, phase=phase, level=level, stages=stages)
    others = left_out(net, phase=phase, level=level, stages=stages)
    net = select(net, phase=phase, level=level, stages=stages)
    return net, others, (*skipped, *borrowed, *staged)


def deploy_stages(
    source: PathOrText, stages: Sequence[str] | str = (), phase: str = "TEST"
) -> tuple[str, ...]:
    """`stages`; in TEST, where there are none, "deploy" if the net has layers for it:
    so a net of several stages is used to predict. Raises ConversionError."""
    given = (stages,) if isinstance(stages, str) else tuple(stages)
    if given or phase != "TEST":
        return given
    net, _ = whole_net(at_hand(source), "TEST")
    return (DEPLOY,) if DEPLOY in stage_names(net) else ()


def note_stages(net: Message) -> tuple[str, ...]:
    """A note on the stages of a net of which none is given."""
    names = stage_names(net)
    if not names:
        return ()
    hint = f"; --stage {DEPLOY} is the net that predicts" if DEPLOY in names else ""
    listed = ", ".join(names)
    return (f"some layers are for a stage, of which none is given: {listed}{hint}",)
