"""The parts of a training script that are the same for all solvers, as text: a
statement a line, as they are formatted with what is put in."""

# ruff: noqa: E501

USAGE = """
    python {stem}_train.py [--resume] [--max-iter N] [--devices N]

{about}
"""

ABOUT = """--help says more. {stem}.py is the model, {stem}_data.py reads the data,
{stem}_tools.py has what else a run needs."""

JITTED = '''
def jitted(step: Callable[..., Any]) -> Callable[..., Any]:
    """nnx.jit, the model and the optimizer donated; by caffe2flax, where it is there,
    which compiles to faster code on one CPU, and else is the same."""
    try:
        from caffe2flax import compile
    except ImportError:
        return nnx.jit(step, donate_argnums=(0, 1))
    return compile(step, donate_argnums=(0, 1))
'''

TRAIN_STEP = '''
def train_step(model: {name}, optimizer: nnx.Optimizer, rngs: nnx.Rngs, batch: dict[str, Array]) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """One pass: the total loss, the losses, and which gradients are finite."""

    def loss(model: {name}, rngs: nnx.Rngs) -> tuple[Array, dict[str, Array]]:
        losses = model.losses({given}, rngs=rngs)
        return model.total_loss(losses), {shown}

    (total, losses), grads = nnx.value_and_grad(loss, has_aux=True)(model, rngs)
    optimizer.update(model, grads)
    finite = {{name: jnp.isfinite(g).all() for name, g in named(grads).items()}}
    return total, losses, finite
'''

LOSS_STEP = '''
@nnx.jit
def loss_step(model: {name}, rngs: nnx.Rngs, batch: dict[str, Array]) -> Array:
    """The total loss of a pass that no update follows."""
    return model.total_loss(model.losses({given}, rngs=rngs))
'''

TEST_STEP = """
@nnx.jit
def test_step{suffix}(model: {name}, batch: dict[str, Array]) -> dict[str, Array]:
    model = nnx.merge(*nnx.split(model))
    model.eval()
    return model.metrics{suffix}({given})
"""

ENTRY = """if __name__ == "__main__":
    main()"""

TEST_LOSS = """
            total = sum(each.get("loss", 0.0) for each in outputs)
            log(f"Test loss: {total:.6g}")"""

SAVE_SNAPSHOT = '''
def save_snapshot(
    prefix: Path, i: int, model: nnx.Module, optimizer: Any, kept: Any, step: int
) -> tuple[Path, Path]:
    """Writes a snapshot as Caffe does, and returns the paths of its two files.

    kept: the history of the snapshot that the run goes on from. step: Caffe's count of
    steps of the learning rate.
    """
    moments = get_moments(optimizer.opt_state, HISTORY)
    saved = i, BLOBS, arrays_of(model), to_history(BLOBS, moments, kept), step{diffs}
    return {write}
'''

RESTORE_SNAPSHOT = '''
def restore_snapshot(
    path: str, model: nnx.Module, optimizer: Any
) -> tuple[int, tuple[int, int], list[Any]]:
    """See `restore`."""
    return restore(path, BLOBS, HISTORY, model, optimizer)
'''

SAVE = """
        if jax.process_index() == 0:
            paths = save_snapshot(PREFIX, i, model, optimizer, kept, {count})
            log_snapshot(log, paths, "{format}")"""

DIFFS = ", last_update(optimizer)"

RESTORE = """
        path = options.snapshot
        i, begun, kept = restore_snapshot(path, model, optimizer)
        log(f"Restoring from {path}", kind="restore", file=path)
        log(*doubts(HISTORY, kept))"""

NO_RESTORE = """
        raise SystemExit("--snapshot: this net's blobs are not in BLOBS")"""

MOVED_RATE = """
    def rate(i: Any) -> Any:
        return learning_rate(i, *begun)

"""

MAIN = """
def main() -> None:
    options = arguments(__doc__)
    keep_memory()
    signals, mesh = Signals(), make_mesh(options)
    model = {model}
    model.train()
    begun, kept = (0, 0), list[Any]()  # of the snapshot that the run goes on from
{moved_rate}    optimizer = nnx.Optimizer(model, make_optimizer({rate}), wrt=nnx.Param)
    rngs = nnx.Rngs(SEED)
    step = jitted(train_step)  # or nnx.jit(train_step)
    data = {data}
    tests = {tests}
    state = {{"model": model, "optimizer": optimizer, "rngs": rngs}}
    checkpoints, watch = Checkpoints(PREFIX), Watch()
    log = Log(PREFIX, bool(options.resume or options.snapshot))
    i, end = 0, MAX_ITER if options.max_iter is None else options.max_iter
    window = deque[Any](maxlen=AVERAGE_LOSS)
    if options.snapshot:{restore}
    elif options.resume and (found := checkpoints.restore(state)):
        i, rest, kept = found
        begun = rest["begun"]
        window.extend(rest["window"])
        for each, position in zip([data, *tests], rest["data"], strict=True):
            each.set_state(position)
        log(f"Resuming from iteration {{i}}", kind="restore", iteration=i)
    replicate(mesh, *state.values())

    def test() -> None:
        for net, metrics in enumerate([{steps}]):
            log(f"Iteration {{i}}, Testing net (#{{net}})")
            given = (next(tests[net]) for _ in range(TEST_ITER[net]))
            every = [metrics(model, to_devices(mesh, batch)) for batch in given]
            weights = LOSS_WEIGHTS[1 + net]
            lines, outputs = shown("Test", mean_of(every), weights){test_loss}
            log(*lines, kind="test", iteration=i, net=net, outputs=outputs{test_entry})

    def snapshot() -> None:
        watch.finish()
        rest = {{"begun": begun, "window": [float(loss) for loss in window]}}
        rest["data"] = [each.get_state() for each in (data, *tests)]
        checkpoints.save(i, state, rest, kept){save}

    log("Solving {name}")
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
            loss, lr = mean_loss(window), float({rate_of}(i))
            lines, outputs = shown("Train", passes[-1][1], LOSS_WEIGHTS[0])
            lines = [f"Iteration {{i}}, loss = {{loss:.6g}}", *lines]
            lines += [f"Iteration {{i}}, lr = {{lr:.6g}}"]
            entry = {{"loss": loss, "outputs": outputs, "lr": lr}}
            log(*lines, kind="display", iteration=i, **entry)
        i += 1
        bar(f"iteration {{i}} of {{end}}")
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
        log(f"Iteration {{i}}, loss = {{loss:.6g}}", kind="end", iteration=i, loss=loss)
    if TEST_INTERVAL and i % TEST_INTERVAL == 0:
        test()
    log("Optimization Done.", kind="done")
"""
