"""The fields of a solver, and which nets it trains and tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from caffe2flax.frontend.message import Message


@dataclass(frozen=True, slots=True)
class NetState:
    """What chooses the layers of a net; None where a solver does not say."""

    phase: str | None = None
    level: int | None = None
    stage: tuple[str, ...] = ()

    def over(self, other: NetState) -> NetState:
        """Both, as protobuf merges them: what is said here wins, stages add up."""
        return NetState(
            other.phase if self.phase is None else self.phase,
            other.level if self.level is None else self.level,
            (*other.stage, *self.stage),
        )


@dataclass(frozen=True, slots=True)
class SolverNet:
    """A net as a solver gives it: a file or, inline, a message.

    field: the field that gives it, such as "net". file: the path as written, None for
    an inline net. phase, level, stages: what its layers are chosen by. level is None
    where the solver does not say: then it is that of the net's own `state`, or 0; of a
    file, stages of that `state` count as well. iterations: batches of a test, from
    test_iter; 0 for the net that is trained.
    """

    field: str
    file: str | None
    message: Message | None
    phase: str
    level: int | None
    stages: tuple[str, ...]
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class InlineNet:
    """A net inside of a solver, and its own `state`."""

    message: Message
    state: NetState = NetState()


@dataclass(frozen=True, slots=True)
class SolverParameter:
    """Caffe's message of this name: its fields, names and defaults, but for those about
    how Caffe itself runs.

    Numbers that are float32 in Caffe have values of float32. clip_gradients: negative
    where nothing is clipped. solver_type is `type`.
    """

    net: str | None = None
    net_param: InlineNet | None = None
    train_net: str | None = None
    train_net_param: InlineNet | None = None
    test_net: tuple[str, ...] = ()
    test_net_param: tuple[InlineNet, ...] = ()
    train_state: NetState = NetState()
    test_state: tuple[NetState, ...] = ()

    test_iter: tuple[int, ...] = ()
    test_interval: int = 0
    test_compute_loss: bool = False
    test_initialization: bool = True

    base_lr: float = 0.0
    lr_policy: str = "fixed"
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalue: tuple[int, ...] = ()
    max_iter: int = 0
    iter_size: int = 1

    type: str = "SGD"
    momentum: float = 0.0
    momentum2: float = 0.9990000128746033  # 0.999 in float32
    rms_decay: float = 0.9900000095367432
    delta: float = 9.99999993922529e-09
    weight_decay: float = 0.0
    regularization_type: str = "L2"
    clip_gradients: float = -1.0

    display: int = 0
    average_loss: int = 1
    snapshot: int = 0
    snapshot_prefix: str = ""
    snapshot_diff: bool = False
    snapshot_format: Literal["HDF5", "BINARYPROTO"] = "BINARYPROTO"
    snapshot_after_train: bool = True
    random_seed: int = -1
    weights: tuple[str, ...] = ()

    file: str = ""
    """The path that it was read from; "" for text."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the user should know."""

    @property
    def training_net(self) -> SolverNet:
        """The net that is trained."""
        state = self.train_state
        if self.train_net_param is not None:
            return _inline("train_net_param", self.train_net_param, "TRAIN", state)
        if self.train_net is not None:
            return _file("train_net", self.train_net, "TRAIN", state)
        if self.net_param is not None:
            return _inline("net_param", self.net_param, "TRAIN", state)
        assert self.net is not None, "as read_solver saw to"
        return _file("net", self.net, "TRAIN", state)

    @property
    def test_nets(self) -> tuple[SolverNet, ...]:
        """The nets that are tested, in Caffe's order: inline ones, files, and the net
        for both phases once for each number of test_iter that is left."""
        counts = self.test_iter
        states = self.test_state or (NetState(),) * len(counts)
        own = len(self.test_net_param) + len(self.test_net)
        nets: list[SolverNet] = []
        for state, count in zip(states, counts, strict=True):
            at = len(nets)
            if at < len(self.test_net_param):
                inline = self.test_net_param[at]
                made = _inline("test_net_param", inline, "TEST", state, count)
            elif at < own:
                path = self.test_net[at - len(self.test_net_param)]
                made = _file("test_net", path, "TEST", state, count)
            elif self.net_param is not None:
                made = _inline("net_param", self.net_param, "TEST", state, count)
            else:
                assert self.net is not None, "as read_solver saw to"
                made = _file("net", self.net, "TEST", state, count)
            nets.append(made)
        return tuple(nets)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The files of `weights`, each of which may list several."""
        paths = (path.strip() for entry in self.weights for path in entry.split(","))
        return tuple(filter(None, paths))


def _inline(
    field: str, net: InlineNet, phase: str, state: NetState, iterations: int = 0
) -> SolverNet:
    merged = state.over(net.state)
    chosen = merged.phase or phase
    return SolverNet(
        field, None, net.message, chosen, merged.level, merged.stage, iterations
    )


def _file(
    field: str, path: str, phase: str, state: NetState, iterations: int = 0
) -> SolverNet:
    chosen = state.phase or phase
    return SolverNet(field, path, None, chosen, state.level, state.stage, iterations)
