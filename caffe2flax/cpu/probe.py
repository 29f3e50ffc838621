"""XLA's calls of oneDNN, unchecked, and a test whether they give the right numbers.

They are no public interface. A release of XLA without them raises; an unknown word in
the configuration, and arguments that oneDNN does not accept, end the process. So
`available` tests them in another process, which may end: this file, run as a program,
which starts fast as it imports no other file.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array

What = Literal["product", "convolution", "packed", "turned"]
ROWS, COLUMNS = 16, 64  # of a block of a packed kernel
TIMEOUT = 120  # seconds; it takes one on an idle machine


def convolve(
    x: Array,
    kernel: Array,
    *others: Array,
    shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    rhs_dilation: Sequence[int],
    groups: int,
    biased: bool,
    relu: bool,
) -> Array:
    """A convolution with a result of `shape`, unchecked: see `onednn.conv`."""
    axes = x.ndim - 2
    spatial = [*range(axes)]
    data = {
        "batch_dim": 0,
        "feature_dim": axes + 1,
        "spatial_dims": [axis + 1 for axis in spatial],
    }
    filters = {
        "input_feature_dim": axes,
        "output_feature_dim": axes + 1,
        "spatial_dims": spatial,
    }
    config = {
        "dims": x.ndim,
        "input": {"dims": x.ndim, "data": data},
        "kernel": {"dims": x.ndim, "filter": filters},
        "output": {"dims": x.ndim, "data": data},
        "window": {
            "strides": [*map(int, strides)],
            "pad_left": [int(low) for low, _ in padding],
            "pad_right": [int(high) for _, high in padding],
            "window_dilations": [*map(int, rhs_dilation)],
        },
        "fusions": fusions(others, biased, relu),
        "feature_groups": int(groups),
    }
    arrays = (x, kernel, *others)
    return call("convolution", {"onednn_conv_config": config}, shape, *arrays)


def multiply(
    x: Array,
    kernel: Array,
    *others: Array,
    shape: Sequence[int],
    biased: bool = False,
    relu: bool = False,
    packed: bool = False,
    turned: bool = False,
) -> Array:
    """A product, or several, with a result of `shape`, unchecked: see
    `onednn.product`. turned: x is (k, rows)."""
    config: dict[str, Any] = {"fusions": fusions(others, biased, relu)}
    config |= {"transpose_a": True} if turned else {}
    if packed:
        config["optimization_config"] = {"weights_prepacked": True}
    rows = [other.reshape(-1, shape[-1]) for other in others]
    return call("matmul", {"onednn_matmul_config": config}, shape, x, kernel, *rows)


def fusions(others: Sequence[Array], biased: bool, relu: bool) -> dict[str, list[str]]:
    added = ["BINARY_ADD"] * (len(others) - biased)
    return {"ops": ["BIAS"] * biased + added + ["RELU"] * relu}


def call(target: str, config: Any, shape: Sequence[int], *args: Array) -> Array:
    result: Any = jax.ShapeDtypeStruct
    prepared: Any = jax.ffi.ffi_call(
        f"__onednn${target}",
        result(tuple(shape), np.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    y: Array = prepared(*args)
    return y


def pack(kernel: np.ndarray, empty: Callable[..., Any] = np.empty) -> np.ndarray:
    """kernel (k, out) in blocks of 16 rows and 64 columns, filled up with zeros, block
    by block down each 64 columns: the order in which oneDNN reads it with AVX-512. The
    result has one axis; `empty` allocates it."""
    spare = [(0, -kernel.shape[0] % ROWS), (0, -kernel.shape[1] % COLUMNS)]
    wide = np.pad(kernel, spare) if np.any(spare) else kernel
    blocks = wide.reshape(-1, ROWS, wide.shape[1] // COLUMNS, COLUMNS)
    packed: np.ndarray = empty((wide.size,), np.float32)
    packed.reshape(-1, len(blocks), ROWS, COLUMNS)[...] = blocks.transpose(2, 0, 1, 3)
    return packed


def available(what: What) -> bool:
    """Whether programs for this process's CPU may use "product", "convolution",
    "packed" (product with the result of `pack`) or "turned" (with a matrix transposed).

    The first call takes about a second, once per process: see `prepare`. False while
    JAX's persistent cache is on, as programs with these calls cannot be stored there.
    """
    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir:
        return False
    here = platform.system(), platform.machine(), jax.default_backend()
    return here == ("Linux", "x86_64", "cpu") and what in prepare().result()


_lock = threading.Lock()
_answer: Future[frozenset[str]] | None = None


def prepare() -> Future[frozenset[str]]:
    """Starts the test that `available` waits for, to be called early. A process forked
    meanwhile waits for ever, as programs of JAX do after a fork."""
    global _answer
    with _lock:
        if _answer is None:
            _answer = Future()
            threading.Thread(target=ask, args=(_answer,), daemon=True).start()
        return _answer


def ask(answer: Future[frozenset[str]]) -> None:
    """Runs this file, which prints the names of the calls that are right."""
    # Environment variables of JAX may set a GPU, a cache or other devices.
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:  # In an application that is one file, sys.executable is that application.
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("no interpreter of Python")
        # -P: do not import from the folder of this file.
        command = [sys.executable, "-P", __file__]
        apart: dict[str, Any] = {"env": env, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, **apart)
        answer.set_result(frozenset(done.stdout.decode().split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        answer.set_result(frozenset())


def main() -> None:
    """Prints each kind of call that is right, at once: the next may end the process."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for what in filter(right, get_args(What)):
        print(what, flush=True)


Case = tuple[Callable[..., Array], list[np.ndarray], np.ndarray]


def right(what: What) -> bool:
    """Whether calls of this kind give the same as NumPy; False where they raise."""
    calls, inputs, wanted = zip(*CASES[what](np.random.default_rng(0)), strict=True)

    def all_of(arrays: Sequence[list[Array]]) -> list[Array]:
        return [call(*given) for call, given in zip(calls, arrays, strict=True)]

    try:
        ours = list(map(np.asarray, jax.jit(all_of)(inputs)))
    except Exception:
        return False
    return all(map(near, ours, wanted))


def near(y: np.ndarray, true: np.ndarray) -> bool:
    """Whether all elements are near; False for NaN."""
    off = np.abs(y - true).max() if y.shape == true.shape else np.inf
    return bool(off <= 1e-5 * np.abs(true).max())


def products(random: np.random.Generator) -> Iterator[Case]:
    sizes = [(1, 7, 9), (5, 33, 70), (40, 130, 17), (64, 64, 1)]
    kinds = ("", "bias relu", "bias other other relu", "other")
    for each, kind in itertools.product(sizes, kinds):
        yield product_case(random, *each, kind, packed=False)
    x, y = (random.standard_normal(n, np.float32) for n in ((6, 9, 20), (6, 20, 5)))
    yield partial(multiply, shape=(6, 9, 5)), [x, y], np.float64(x) @ y


def packed_products(random: np.random.Generator) -> Iterator[Case]:
    """oneDNN's blocks may depend on the number of columns: in one release they do."""
    outs = (2, 30, 64, 65, 130, 200, 300, 350, 400, 450, 550, 600)
    for each in itertools.product((2, 30), (5, 70), outs):
        kind = ("", "bias other relu")[sum(each) % 2]
        yield product_case(random, *each, kind, packed=True)


def turned_products(random: np.random.Generator) -> Iterator[Case]:
    for rows, k, out in ((1, 7, 9), (7, 1, 9), (33, 5, 70), (40, 130, 17), (64, 64, 1)):
        x, y = (random.standard_normal((k, n), np.float32) for n in (rows, out))
        way = partial(multiply, shape=(rows, out), turned=True)
        yield way, [x, y], np.float64(x).T @ y


def product_case(
    random: np.random.Generator, rows: int, k: int, out: int, kind: str, packed: bool
) -> Case:
    x, kernel = random.standard_normal((rows, k)), random.standard_normal((k, out))
    others, true = added(random, x @ kernel, kind)
    given: dict[str, Any] = {"biased": "bias" in kind, "relu": "relu" in kind}
    way = partial(multiply, shape=(rows, out), packed=packed, **given)
    single = kernel.astype(np.float32)
    weights = pack(single) if packed else single
    return way, [x.astype(np.float32), weights, *others], true


def convolutions(random: np.random.Generator) -> Iterator[Case]:
    """Cases in which each number of the configuration changes some result."""
    forms: list[tuple[Any, ...]] = [
        # x, kernel, strides, padding, dilation, groups
        ((2, 12, 11, 5), (3, 2, 5, 20), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        ((1, 13, 22, 3), (3, 5, 3, 16), (2, 3), ((1, 2), (0, 4)), (1, 1), 1),
        ((1, 15, 17, 32), (3, 3, 32, 6), (1, 2), ((2, 1), (3, 0)), (2, 3), 1),
        ((1, 9, 10, 8), (3, 3, 4, 12), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
        ((1, 9, 10, 32), (3, 3, 1, 32), (2, 2), ((1, 1), (1, 1)), (1, 1), 32),
        ((3, 30, 4), (4, 4, 6), (2,), ((1, 3),), (1,), 1),
        ((1, 5, 8, 9, 4), (3, 2, 3, 4, 6), (1, 2, 1), ((1, 0),) * 3, (2, 1, 1), 1),
    ]
    for shape, window, strides, padding, dilation, groups in forms:
        x, kernel = random.standard_normal(shape), random.standard_normal(window)
        plain = true_conv(x, kernel, strides, padding, dilation, groups)
        for kind in ("", "bias other relu"):
            others, true = added(random, plain, kind)
            way = partial(
                convolve,
                shape=true.shape,
                strides=strides,
                padding=padding,
                rhs_dilation=dilation,
                groups=groups,
                biased="bias" in kind,
                relu="relu" in kind,
            )
            yield way, [*(a.astype(np.float32) for a in (x, kernel)), *others], true


def added(
    random: np.random.Generator, y: np.ndarray, kind: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """The arrays to add to y, and the expected result."""
    shapes = {"bias": y.shape[-1:], "other": y.shape}
    names = [word for word in kind.split() if word in shapes]
    others = [random.standard_normal(shapes[name], np.float32) for name in names]
    y = sum(others, start=y)
    return others, np.maximum(y, 0) if "relu" in kind else y


def true_conv(x: np.ndarray, kernel: np.ndarray, *form: Any) -> np.ndarray:
    """The convolution by NumPy, one position of the window at a time."""
    strides, padding, dilation, groups = form
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    *window, channels, out = kernel.shape
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    kernel = kernel.reshape(*window, channels, groups, out // groups)
    spans = [n - e + 1 for n, e in zip(x.shape[1:-1], extents, strict=True)]
    parts = []
    for at in np.ndindex(*window):
        each = zip(at, dilation, spans, strides, strict=True)
        slid = x[:, *(slice(i * d, i * d + span, s) for i, d, span, s in each)]
        slid = slid.reshape(*slid.shape[:-1], groups, channels)
        parts.append(np.einsum("...gc,cgo->...go", slid, kernel[at]))
    y: np.ndarray = np.sum(parts, axis=0)
    return y.reshape(*y.shape[:-2], out)


MAKERS = (products, convolutions, packed_products, turned_products)
CASES = dict(zip(get_args(What), MAKERS, strict=True))

if __name__ == "__main__":
    main()
