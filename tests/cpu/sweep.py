"""Random convolutions and products by oneDNN, or through `compile`, against XLA's own.

    python -m tests.cpu.sweep --count 2000 --seed 0 --through onednn

Prints the cases that differ by more than 2e-5 of the largest number, in the first of
two programs or in the second, and those that end the process. With `--excluded NAME`,
only convolutions that onednn.EXCLUDED excludes under this name, to see whether that is
still needed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from caffe2flax.cpu import onednn, probe

TOLERANCE = 2e-5
AXES = {1: "W", 2: "HW", 3: "DHW"}


@dataclass(frozen=True)
class Case:
    """kind: conv, product, products or packed. form: of a convolution. sizes: (rows, k,
    out) of a product. blobs: how many of the result's shape are added."""

    kind: str
    form: onednn.Form | None
    sizes: tuple[int, int, int]
    biased: bool
    blobs: int
    relu: bool

    def __str__(self) -> str:
        behind = f"biased={self.biased} blobs={self.blobs} relu={self.relu}"
        if self.form is None:
            return f"{self.kind} {self.sizes} {behind}"
        f = self.form
        return (
            f"conv x={f.x} kernel={f.kernel} strides={f.strides} padding={f.padding} "
            f"rhs_dilation={f.rhs_dilation} groups={f.groups} {behind}"
        )


def draw(seed: int, index: int, convs_only: bool = False) -> Case:
    """Any case that oneDNN may be given."""
    r = random.Random(f"{seed} {index}")
    behind = r.random() < 0.6, r.choice([0, 0, 0, 1, 1, 2]), r.random() < 0.4
    kind = "conv" if convs_only else r.choice(["conv"] * 6 + ["product", "packed"])
    if kind == "conv":
        return Case(kind, draw_form(r), (0, 0, 0), *behind)
    if r.random() < 0.15:
        return Case("products", None, draw_sizes(r), False, 0, False)
    return Case(kind, None, draw_sizes(r), *behind)


def draw_sizes(r: random.Random) -> tuple[int, int, int]:
    edges = [1, 2, 3, 15, 16, 17, 63, 64, 65]

    def number(most: int) -> int:
        return r.choice(edges) if r.random() < 0.4 else r.randint(1, most)

    sizes = [number(300), number(600), number(600)]
    if r.random() < 0.05:
        sizes[r.randrange(3)] = r.randint(600, 5000)
    return sizes[0], sizes[1], sizes[2]


def draw_form(
    r: random.Random, suits: Callable[[onednn.Form], bool] | None = None
) -> onednn.Form:
    """Any convolution that `conv` takes; those of one pixel with stride 1 rarely."""
    while True:
        form = any_form(r)
        if form is None or (
            len(form.x) == 4 and form.extents == [1, 1] and r.random() < 0.8
        ):
            continue
        taken = not any(wrong(form) for wrong in onednn.EXCLUDED.values())
        if suits(form) if suits else taken:
            return form


def any_form(r: random.Random) -> onednn.Form | None:
    axes = r.choice([1, 2, 2, 2, 2, 3])
    most = {1: 11, 2: 7, 3: 4}[axes]
    small = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64]

    def each(low: int, high: int, alike: float = 0.6) -> list[int]:
        if r.random() < alike:
            return [r.randint(low, high)] * axes
        return [r.randint(low, high) for _ in range(axes)]

    def channels(least: int = 1) -> int:
        return r.choice(small) if r.random() < 0.5 else r.randint(least, 70)

    window, strides = each(1, most), each(1, r.choice([1, 2, 4]))
    dilation = each(1, r.choice([1, 1, 1, 2, 3]))
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    style = r.choice(["none", "same", "any"] * 5 + ["wide", "narrow"])
    if style == "none":
        pads = [(0, 0)] * axes
    elif style == "same":
        pads = [((e - 1) // 2, e // 2) for e in extents]
    elif style == "any":
        pads = [(r.randint(0, e - 1), r.randint(0, e - 1)) for e in extents]
    else:
        low, high = {"wide": (0, 2), "narrow": (-1, 0)}[style]
        pads = [
            (r.randint(low * e, high * e), r.randint(low * e, high * e))
            for e in extents
        ]
    sizes = []
    for e, (low, high) in zip(extents, pads, strict=True):
        least = max(1, e - low - high)
        near = r.random() < 0.4
        sizes.append(
            r.randint(least, least + 6) if near else r.randint(least, max(least, 70))
        )
    groups, per, out = 1, channels(), channels()
    style = r.choice(["one"] * 6 + ["some"] * 2 + ["depthwise"] * 2)
    if style == "some":
        groups = r.randint(2, 8)
        per, out = max(1, per // groups), max(1, out // groups)
    elif style == "depthwise":
        groups, per, out = channels(2), 1, r.choice([1, 1, 1, 2, 3])
    batch = r.choice([1, 1, 2, 3, 4])
    x = (batch, *sizes, per * groups)
    kernel = (*window, per, out * groups)
    form = onednn.form_of(
        x,
        kernel,
        strides=tuple(strides),
        padding=tuple(pads),
        rhs_dilation=tuple(dilation),
        feature_group_count=groups,
    )
    if form is None:
        return None
    work = np.prod(form.shape, dtype=float) * np.prod(kernel[:-1], dtype=float)
    too_much = work > 6e7 or np.prod(x, dtype=float) > 2**21
    return None if too_much else form


def arrays_of(case: Case, seed: int) -> list[np.ndarray]:
    """x, kernel and what is added."""
    numbers = np.random.default_rng(seed)
    rows, k, out = case.sizes
    if case.form is not None:
        shapes = [case.form.x, case.form.kernel]
        shape = case.form.shape
    elif case.kind == "products":
        shapes, shape = [(3, rows, k), (3, k, out)], (3, rows, out)
    else:
        shapes, shape = [(rows, k), (k, out)], (rows, out)
    shapes += [shape[-1:]] * case.biased + [shape] * case.blobs
    return [numbers.standard_normal(shape, np.float32) for shape in shapes]


def window_of(form: onednn.Form) -> dict[str, Any]:
    return {
        "strides": form.strides,
        "padding": form.padding,
        "rhs_dilation": form.rhs_dilation,
        "feature_group_count": form.groups,
    }


def by_onednn(case: Case, x: Array, kernel: Array, *others: Array) -> Array:
    behind: dict[str, Any] = {"biased": case.biased, "relu": case.relu}
    if case.form is not None:
        if onednn.suits_conv(x.shape, kernel.shape, **window_of(case.form)):
            return onednn.conv(x, kernel, *others, **window_of(case.form), **behind)
        window = window_of(case.form) | {"groups": case.form.groups}
        del window["feature_group_count"]
        shape = case.form.shape
        return probe.convolve(x, kernel, *others, shape=shape, **window, **behind)
    if case.kind == "products":
        return onednn.products(x, kernel)
    if case.kind == "packed":
        return onednn.packed_product(x, kernel, *others, out=case.sizes[2], **behind)
    return onednn.product(x, kernel, *others, **behind)


def plain(case: Case, x: Array, kernel: Array, *others: Array) -> Array:
    if case.form is not None:
        axes = AXES[x.ndim - 2]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        window = window_of(case.form)
        strides, pads = window.pop("strides"), window.pop("padding")
        y = lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=layout, **window
        )
    else:
        y = x @ kernel
    for other in others:
        y = y + other.reshape((1,) * (y.ndim - other.ndim) + other.shape)
    return jnp.maximum(y, 0) if case.relu else y


def exactly(case: Case, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """In float64."""
    x, kernel, *others = (array.astype(np.float64) for array in arrays)
    if case.form is not None:
        f = case.form
        y = probe.true_conv(x, kernel, f.strides, f.padding, f.rhs_dilation, f.groups)
    else:
        y = x @ kernel
    for other in others:
        y = y + other
    return np.maximum(y, 0) if case.relu else y


def all_of(
    ways: Sequence[Callable[..., Array]], arrays: Sequence[Sequence[Array]]
) -> list[Array]:
    return [way(*given) for way, given in zip(ways, arrays, strict=True)]


def off(y: np.ndarray, true: np.ndarray) -> float:
    """By how much of the largest number; infinity where shapes or NaN differ."""
    if y.shape != true.shape or not np.isfinite(y).all():
        return float("inf")
    least = np.finfo(np.float32).tiny
    return float(np.abs(y - true).max() / max(float(np.abs(true).max()), least))


def spoil(arrays: Sequence[np.ndarray]) -> None:
    """Leaves NaN in the memory that is free."""
    left = [np.full(array.size, np.nan, np.float32) for array in arrays for _ in "ab"]
    del left


def measure(cases: Sequence[Case], seed: int) -> list[float]:
    """How far each is off, in the worse of two programs."""
    inputs = [arrays_of(case, seed + i) for i, case in enumerate(cases)]
    truth = jax.jit(partial(all_of, [partial(plain, case) for case in cases]))(inputs)
    wanted = [np.asarray(y) for y in truth]
    given = [
        [x, probe.pack(kernel) if case.kind == "packed" else kernel, *others]
        for case, (x, kernel, *others) in zip(cases, inputs, strict=True)
    ]
    ways = [partial(by_onednn, case) for case in cases]
    worst = [0.0] * len(cases)
    for order in (slice(None), slice(None, None, -1)):
        spoil([array for each in inputs for array in each])
        ours = jax.jit(partial(all_of, ways[order]))(given[order])
        for i, y in enumerate(ours[order]):
            worst[i] = max(worst[i], off(np.asarray(y), wanted[i]))
    return judged(cases, inputs, wanted, worst)


def judged(
    cases: Sequence[Case],
    inputs: Sequence[Sequence[np.ndarray]],
    wanted: Sequence[np.ndarray],
    worst: Sequence[float],
) -> list[float]:
    """Where the two differ, how far XLA's own is off does not count."""
    return [
        max(0.0, w - off(y, exactly(case, arrays))) if w > TOLERANCE else w
        for case, arrays, y, w in zip(cases, inputs, wanted, worst, strict=True)
    ]


def measure_compiled(cases: Sequence[Case], seed: int) -> list[float]:
    """`caffe2flax.compile` of a module with one convolution, and `jax.jit` of it."""
    from flax import nnx

    import caffe2flax

    class One(nnx.Module):
        def __init__(self, case: Case, kernel: Array, bias: Array | None):
            f, self.relu = case.form, case.relu
            assert f is not None
            self.conv = nnx.Conv(
                f.x[-1],
                f.kernel[-1],
                f.kernel[:-2],
                strides=f.strides,
                padding=f.padding,
                kernel_dilation=f.rhs_dilation,
                feature_group_count=f.groups,
                use_bias=case.biased,
                kernel_init=lambda *_: kernel,
                bias_init=lambda *_: bias,
                rngs=nnx.Rngs(0),
            )

        def __call__(self, x: Array, *others: Array) -> Array:
            y = self.conv(x)
            for other in others:
                y = y + other
            return jax.nn.relu(y) if self.relu else y

    inputs = [arrays_of(case, seed + i) for i, case in enumerate(cases)]
    modules, given = [], []
    for case, (x, kernel, *others) in zip(cases, inputs, strict=True):
        bias = jnp.asarray(others[0]) if case.biased else None
        modules.append(One(case, jnp.asarray(kernel), bias))
        given.append([x, *others[case.biased :]])
    wanted = [np.asarray(y) for y in jax.jit(partial(all_of, modules))(given)]
    worst = []
    for module, arrays, true in zip(modules, given, wanted, strict=True):
        forward = caffe2flax.compile(module)
        spoil(arrays)
        worst.append(max(off(np.asarray(forward(*arrays)), true) for _ in "ab"))
    return judged(cases, inputs, wanted, worst)


def excluded_as(name: str, form: onednn.Form) -> bool:
    """Under this name alone."""
    return [key for key, wrong in onednn.EXCLUDED.items() if wrong(form)] == [name]


def chosen(options: argparse.Namespace, index: int) -> Case:
    if not options.excluded:
        return draw(options.seed, index, options.through == "compile")
    r = random.Random(f"{options.seed} {index}")
    form = draw_form(r, partial(excluded_as, options.excluded))
    return Case("conv", form, (0, 0, 0), False, 0, False)


def in_child(options: argparse.Namespace, indices: Sequence[int]) -> list[float]:
    """The difference of each case, NaN where it ends the process: found by halving."""
    command = [sys.executable, "-m", "tests.cpu.sweep", *sys.argv[1:]]
    # Memory that was just allocated holds 3.4e38 (0x7f7f7f7f) instead of zeros.
    env = os.environ | {"MALLOC_PERTURB_": "128", "JAX_PLATFORMS": "cpu"}
    text = json.dumps([*indices])
    done = subprocess.run(
        [*command, "--indices", text], env=env, capture_output=True, text=True
    )
    if done.returncode == 0:
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found
    if done.returncode > 0:
        raise RuntimeError(done.stderr[-3000:])
    if len(indices) == 1:
        return [float("nan")]
    half = len(indices) // 2
    return in_child(options, indices[:half]) + in_child(options, indices[half:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--through", choices=["onednn", "compile"], default="onednn")
    parser.add_argument("--excluded", choices=[*onednn.EXCLUDED])
    parser.add_argument("--batch", type=int, default=100, help="cases in a program")
    parser.add_argument("--indices", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.indices:
        cases = [chosen(options, i) for i in json.loads(options.indices)]
        way = measure if options.through == "onednn" else measure_compiled
        print(json.dumps(way(cases, options.seed)))
        return 0
    start, wrong, largest = time.perf_counter(), 0, 0.0
    for first in range(0, options.count, options.batch):
        indices = range(first, min(first + options.batch, options.count))
        for index, found in zip(indices, in_child(options, indices), strict=True):
            if found <= TOLERANCE:
                largest = max(largest, found)
                continue
            wrong += 1
            what = "ends the process" if np.isnan(found) else f"off by {found:.1e}"
            print(f"{index}: {what}: {chosen(options, index)}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{options.count} cases, {wrong} wrong, others within {largest:.1e}, "
          f"{seconds:.0f} s, JAX {jax.__version__}")  # fmt: skip
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
