"""Trains DigitsLeNet as stats_digits.solver.prototxt says.

    python digitslenet_train.py [--resume] [--max-iter N] [--devices N]

--help says more. digitslenet.py is the model, digitslenet_data.py reads the data,
digitslenet_tools.py has what else a run needs.
"""

from collections import deque
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from digitslenet import DigitsLeNet
from digitslenet_data import test_batches, train_batches
from digitslenet_tools import (
    HISTORY,
    Checkpoints,
    Log,
    Signals,
    Watch,
    arguments,
    bar,
    by_multipliers,
    doubts,
    jitted,
    keep_memory,
    log_snapshot,
    make_mesh,
    mean_loss,
    mean_of,
    named,
    replicate,
    restore_snapshot,
    save_snapshot,
    shown,
    to_devices,
)

PREFIX = Path(__file__).with_name("stats_digits")
MAX_ITER, ITER_SIZE = 500, 1
DISPLAY, AVERAGE_LOSS = 50, 50
TEST_INTERVAL, TEST_INITIALIZATION = 50, True
TEST_ITER = (3,)
SNAPSHOT, SNAPSHOT_AFTER_TRAIN = 0, False
SEED = 0
LOSS_WEIGHTS = [{"loss": 1}, {"loss": 1}]  # in training, then in tests


def learning_rate(i):
    """lr_policy "inv"."""
    return 0.01 * (1.0 + 0.0001 * i) ** -0.75


MULTIPLIERS = {  # lr_mult, decay_mult: those of the first pattern that fits
    "*.bias": (2, 1),
    "*": (1, 1),
}


def make_optimizer(rate=learning_rate):
    """SGD as in Caffe; its state is that of a snapshot."""

    def sgd(lr_mult, decay_mult):
        if lr_mult == 0:
            return optax.set_to_zero()
        return optax.chain(
            optax.add_decayed_weights(0.0005 * decay_mult),
            optax.scale_by_schedule(lambda i: lr_mult * rate(i)),  # before the momentum
            optax.trace(0.9),
            optax.scale(-1),
        )

    return by_multipliers(sgd, MULTIPLIERS)


def train_step(
    model: DigitsLeNet,
    optimizer: nnx.Optimizer,
    rngs: nnx.Rngs,
    batch: dict[str, Array],
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """One pass: the total loss, the losses, and which gradients are finite."""

    def loss(model: DigitsLeNet, rngs: nnx.Rngs) -> tuple[Array, dict[str, Array]]:
        losses = model.losses(batch["data"], batch["label"], rngs=rngs)
        return model.total_loss(losses), losses

    (total, losses), grads = nnx.value_and_grad(loss, has_aux=True)(model, rngs)
    optimizer.update(model, grads)
    finite = {name: jnp.isfinite(g).all() for name, g in named(grads).items()}
    return total, losses, finite


@nnx.jit
def loss_step(model: DigitsLeNet, rngs: nnx.Rngs, batch: dict[str, Array]) -> Array:
    """The total loss of a pass that no update follows."""
    return model.total_loss(model.losses(batch["data"], batch["label"], rngs=rngs))


@nnx.jit
def test_step(model: DigitsLeNet, batch: dict[str, Array]) -> dict[str, Array]:
    model = nnx.merge(*nnx.split(model))
    model.eval()
    return model.metrics(batch["data"], batch["label"])


def main() -> None:
    options = arguments(__doc__)
    keep_memory()
    signals, mesh = Signals(), make_mesh(options)
    model = DigitsLeNet(rngs=nnx.Rngs(SEED))
    model.train()
    begun, kept = (0, 0), list[Any]()  # of the snapshot that the run goes on from
    optimizer = nnx.Optimizer(model, make_optimizer(), wrt=nnx.Param)
    rngs = nnx.Rngs(SEED)
    step = jitted(train_step)  # or nnx.jit(train_step)
    data = iter(train_batches(seed=SEED))
    tests = [iter(test_batches(seed=SEED))]
    state = {"model": model, "optimizer": optimizer, "rngs": rngs}
    checkpoints, watch = Checkpoints(PREFIX), Watch()
    log = Log(PREFIX, bool(options.resume or options.snapshot))
    i, end = 0, MAX_ITER if options.max_iter is None else options.max_iter
    window = deque[Any](maxlen=AVERAGE_LOSS)
    if options.snapshot:
        path = options.snapshot
        i, begun, kept = restore_snapshot(path, model, optimizer)
        log(f"Restoring from {path}", kind="restore", file=path)
        log(*doubts(HISTORY, kept))
    elif options.resume and (found := checkpoints.restore(state)):
        i, rest, kept = found
        begun = rest["begun"]
        window.extend(rest["window"])
        for each, position in zip([data, *tests], rest["data"], strict=True):
            each.set_state(position)
        log(f"Resuming from iteration {i}", kind="restore", iteration=i)
    replicate(mesh, *state.values())

    def test() -> None:
        for net, metrics in enumerate([test_step]):
            log(f"Iteration {i}, Testing net (#{net})")
            given = (next(tests[net]) for _ in range(TEST_ITER[net]))
            every = [metrics(model, to_devices(mesh, batch)) for batch in given]
            weights = LOSS_WEIGHTS[1 + net]
            lines, outputs = shown("Test", mean_of(every), weights)
            log(*lines, kind="test", iteration=i, net=net, outputs=outputs)

    def snapshot() -> None:
        watch.finish()
        rest = {"begun": begun, "window": [float(loss) for loss in window]}
        rest["data"] = [each.get_state() for each in (data, *tests)]
        checkpoints.save(i, state, rest, kept)
        if jax.process_index() == 0:
            paths = save_snapshot(PREFIX, i, model, optimizer, kept, 0)
            log_snapshot(log, paths, "binary")

    log("Solving DigitsLeNet")
    while i < end and not signals.ends:
        if TEST_INTERVAL and i % TEST_INTERVAL == 0 and (i or TEST_INITIALIZATION):
            test()
        passes = [
            step(model, optimizer, rngs, to_devices(mesh, next(data)))
            for _ in range(ITER_SIZE)
        ]
        window.append(sum(total for total, *_ in passes) / ITER_SIZE)
        for total, _, finite in passes:
            watch(i, total, finite)
        if DISPLAY and i % DISPLAY == 0:
            loss, lr = mean_loss(window), float(learning_rate(i))
            lines, outputs = shown("Train", passes[-1][1], LOSS_WEIGHTS[0])
            lines = [f"Iteration {i}, loss = {loss:.6g}", *lines]
            lines += [f"Iteration {i}, lr = {lr:.6g}"]
            entry = {"loss": loss, "outputs": outputs, "lr": lr}
            log(*lines, kind="display", iteration=i, **entry)
        i += 1
        bar(f"iteration {i} of {end}")
        if (SNAPSHOT and i % SNAPSHOT == 0) or signals.wants_snapshot():
            snapshot()
    stopped = signals.ends or end != MAX_ITER
    if (stopped or SNAPSHOT_AFTER_TRAIN) and i not in checkpoints:
        snapshot()
    watch.finish()
    if signals.ends:
        log("Optimization stopped early.", kind="stopped", iteration=i)
        return
    if DISPLAY and i % DISPLAY == 0:
        window.append(loss_step(model, rngs, to_devices(mesh, next(data))))
        loss = mean_loss(window)
        log(f"Iteration {i}, loss = {loss:.6g}", kind="end", iteration=i, loss=loss)
    if TEST_INTERVAL and i % TEST_INTERVAL == 0:
        test()
    log("Optimization Done.", kind="done")


if __name__ == "__main__":
    main()
