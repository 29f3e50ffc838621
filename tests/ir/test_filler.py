"""Fillers against statistics that Caffe recorded; JAX sources against the fillers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import caffe2flax.ops.initializers as ops
from caffe2flax.errors import ConversionError
from caffe2flax.ir.filler import Filler

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = json.loads((FIXTURES / "fillers.json").read_text(encoding="utf-8"))
CONVOLUTION, DENSE, TRANSPOSED = (2, 3, 1, 0), (1, 0), (2, 3, 0, 1)


@pytest.fixture(autouse=True)
def strict():
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


def filler_of(text):
    """The Filler that a recorded prototxt line describes."""
    fields = re.findall(r'(\w+): ("?)([\w.-]+)"?', text)
    words = {name: value if quoted else _value(value) for name, quoted, value in fields}
    return Filler(**words)


def _value(text):
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def evaluated(source):
    """The initializer that the source text names, as in a generated module."""
    return eval(source, {"nnx": nnx} | vars(ops))


def abstract(source, shape, dtype):
    """The kernel's shape and dtype, without its numbers."""
    init = evaluated(source)
    return jax.eval_shape(lambda key: init(key, shape, dtype), jax.random.key(0))


def initialized(source, shape):
    """The kernel that the source text makes."""
    # The default generator takes seconds to compile for a dozen shapes.
    kernel = evaluated(source)(jax.random.key(0, impl="unsafe_rbg"), shape, np.float32)
    assert kernel.shape == shape
    assert kernel.dtype == np.float32
    return np.asarray(kernel)


def in_caffe_order(filler, shape, axes):
    kernel = initialized(
        filler.initializer(shape, axes), tuple(shape[axis] for axis in axes)
    )
    return kernel.transpose(np.argsort(axes))


def agree(sample, recorded):
    """The statistics are those of as many draws from the recorded distribution.

    The recorded ones are a sample as well: their errors add, at five sigma.
    """
    count, spread = sample.size, recorded["std"]
    assert sample.dtype == np.float32
    assert sample.shape == tuple(recorded["shape"])
    error = 5 * (2 / count) ** 0.5
    assert abs(sample.mean(dtype=float) - recorded["mean"]) <= error * spread + 1e-7
    # A sparse sample has a kurtosis of 60, and the standard deviation errs by it.
    tail = 8 if recorded["zero_fraction"] else 1
    assert abs(sample.std(dtype=float) - spread) <= error * spread * tail
    assert abs((sample == 0).mean() - recorded["zero_fraction"]) < error
    # How far out the extremes lie: a unit ball's rows differ by their sums.
    bounded = recorded["max"] - recorded["min"] < 5 * spread
    ball = "unitball" in recorded["filler"]
    drawn = spread / (1 - recorded["zero_fraction"]) ** 0.5
    slack = (0.2 if ball else 0.01 if bounded else 1.5) * drawn + 1e-7
    assert sample.min() == pytest.approx(recorded["min"], abs=slack)
    assert sample.max() == pytest.approx(recorded["max"], abs=slack)


def same_distribution(a, b):
    """Kolmogorov and Smirnov's distance, at a significance of 1 in 10 000."""
    a, b = np.sort(a, axis=None), np.sort(b, axis=None)
    both = np.concatenate([a, b])
    gap = np.searchsorted(a, both, "right") / a.size
    gap -= np.searchsorted(b, both, "right") / b.size
    assert abs(gap).max() < 2.23 * ((a.size + b.size) / (a.size * b.size)) ** 0.5


@pytest.mark.parametrize("row", RECORDED, ids=lambda r: f"{r['filler']} {r['layer']}")
def test_statistics_are_those_that_caffe_recorded(row):
    filler, shape = filler_of(row["filler"]), tuple(row["shape"])
    agree(filler.sample(shape, np.random.default_rng(0)), row)
    axes = CONVOLUTION if row["layer"] == "Convolution" else DENSE
    agree(in_caffe_order(filler, shape, axes), row)


# No two sizes are alike, so that a fan taken of the wrong axis shows.
IMAGE = (48, 5, 3, 4)
PERMUTED = [
    (IMAGE, CONVOLUTION),
    (IMAGE, TRANSPOSED),
    (IMAGE, (0, 1, 2, 3)),
    (IMAGE, (3, 0, 2, 1)),
    ((60, 30), DENSE),
    ((60, 30), (0, 1)),
    ((2500,), (0,)),
]
CASES = [
    *(
        (filler, IMAGE, CONVOLUTION)
        for filler in (
            Filler("uniform", min=-0.1, max=0.3),
            Filler("uniform", max=2.0),
            Filler("uniform", min=-0.5, max=0.0),
            Filler("gaussian", std=0.01),
            Filler("gaussian", mean=-1.0, std=0.5),
        )
    ),
    *((Filler("msra"), *permuted) for permuted in PERMUTED[:2]),
    *(
        (filler, *permuted)
        for permuted in PERMUTED[1::2]
        for filler in (
            Filler("gaussian", std=0.3, mean=0.2, sparse=2),
            Filler("positive_unitball"),
        )
    ),
    *(
        (filler, *permuted)
        for permuted in PERMUTED
        for filler in (
            Filler("xavier"),
            Filler("xavier", variance_norm="FAN_OUT"),
            Filler("xavier", variance_norm="AVERAGE"),
        )
    ),
]


@pytest.mark.parametrize(("filler", "shape", "axes"), CASES)
def test_permuted_initializer_has_the_distribution_of_the_blob(filler, shape, axes):
    ours = filler.sample(shape, np.random.default_rng(1))
    theirs = in_caffe_order(filler, shape, axes)
    assert ours.shape == theirs.shape == shape
    if filler.type == "positive_unitball":
        rest = tuple(range(1, len(shape)))
        np.testing.assert_allclose(ours.sum(rest), 1, rtol=1e-5)
        np.testing.assert_allclose(theirs.sum(rest), 1, rtol=1e-5)
    same_distribution(ours, theirs)


def test_fan_of_a_blob_is_counted_from_its_first_two_axes():
    shape = (6, 4, 3, 5)
    fans = [
        Filler("msra", variance_norm=norm).fan(shape)
        for norm in ("FAN_IN", "FAN_OUT", "AVERAGE")
    ]
    assert fans == [60, 90, 75]
    assert Filler("msra", variance_norm="FAN_OUT").fan((7,)) == 7
    assert Filler("msra").fan((7,)) == 1


@pytest.mark.parametrize("width", range(2, 9))
def test_bilinear_kernel_is_the_recorded_one(width):
    with np.load(FIXTURES / "fillers_bilinear.npz") as recorded:
        expected = recorded[f"k{width}"]
    filler, shape = Filler("bilinear"), expected.shape
    sample = filler.sample(shape, np.random.default_rng(0))
    assert sample.dtype == np.float32
    assert sample.flags.writeable
    np.testing.assert_array_equal(sample, expected)
    axes = (CONVOLUTION, TRANSPOSED, (0, 1, 2, 3), (0, 2, 3, 1))[width % 4]
    kernel = in_caffe_order(filler, shape, axes)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("filler", "shape", "axes", "source"),
    [
        (Filler(), (8,), None, "nnx.initializers.zeros_init()"),
        (Filler(value=1.0), (8,), None, "nnx.initializers.ones_init()"),
        (Filler(value=0.1), (8,), None, "nnx.initializers.constant(0.1)"),
        (Filler(value=float(np.float32(0.1))), (8,), None, "constant(0.1)"),
        (Filler(value=-0.0), (8,), None, "nnx.initializers.constant(-0.0)"),
        (Filler(value=1e39), (8,), None, 'constant(float("inf"))'),
        (Filler(value=3.0), (), None, "nnx.initializers.constant(3.0)"),
        (Filler("gaussian", std=0.01), (8, 4), DENSE, "nnx.initializers.normal(0.01)"),
        (Filler("gaussian"), (8, 4), DENSE, "nnx.initializers.normal(1.0)"),
        (Filler("gaussian", mean=1.0), (8, 4), DENSE, "gaussian(1.0, 1.0)"),
        (
            Filler("gaussian", sparse=5),
            (8, 4),
            DENSE,
            "sparse_gaussian(0.0, 1.0, sparse=5)",
        ),
        (
            Filler("gaussian", sparse=5),
            (8, 4),
            (0, 1),
            "sparse_gaussian(0.0, 1.0, sparse=5, axis=0)",
        ),
        (Filler("uniform"), (8, 4), DENSE, "nnx.initializers.uniform(1.0)"),
        (
            Filler("uniform", min=-0.1, max=0.1),
            (8, 4),
            DENSE,
            "uniform_between(-0.1, 0.1)",
        ),
        (Filler("positive_unitball"), (8, 4), DENSE, "positive_unitball()"),
        (
            Filler("positive_unitball"),
            (8, 4, 3, 3),
            TRANSPOSED,
            "positive_unitball(axis=2)",
        ),
        (
            Filler("xavier"),
            (8, 4, 3, 3),
            CONVOLUTION,
            'nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")',
        ),
        (
            Filler("msra", variance_norm="AVERAGE"),
            (8, 4),
            DENSE,
            'nnx.initializers.variance_scaling(2.0, "fan_avg", "normal")',
        ),
        (
            Filler("msra"),
            (8, 4, 3, 3),
            TRANSPOSED,
            'nnx.initializers.variance_scaling(2.0, "fan_out", "normal")',
        ),
        (
            Filler("xavier"),
            (8, 4, 3, 3),
            (0, 1, 2, 3),
            'variance_scaling(1.0, "fan_in", "uniform", in_axis=1, out_axis=0)',
        ),
        (Filler("bilinear"), (8, 1, 4, 4), CONVOLUTION, "bilinear()"),
        (Filler("bilinear"), (8, 1, 4, 4), (0, 1, 2, 3), "bilinear(axes=(2, 3))"),
    ],
)
def test_source_of_the_initializer(filler, shape, axes, source):
    found = filler.initializer(shape, axes)
    assert found.removeprefix("nnx.initializers.") == source.removeprefix(
        "nnx.initializers."
    )
    assert found.startswith("nnx.") == (
        re.match(r"[a-z_]+", found)[0] not in vars(ops) or "nnx." in found
    )
    permuted = tuple(shape[axis] for axis in axes or range(len(shape)))
    traced = abstract(found, permuted, np.float32)
    assert (traced.shape, traced.dtype) == (permuted, np.float32)


def test_initializer_serves_a_flax_layer():
    source = Filler("gaussian", mean=0.5, std=0.1).initializer(
        (8, 3, 5, 5), CONVOLUTION
    )
    init = evaluated(source)
    layer = nnx.Conv(3, 8, (5, 5), kernel_init=init, rngs=nnx.Rngs(0))
    assert layer.kernel[...].shape == (5, 5, 3, 8)
    assert float(layer.kernel[...].mean()) == pytest.approx(0.5, abs=0.02)
    shapes = nnx.eval_shape(
        lambda: nnx.Conv(3, 8, (5, 5), kernel_init=init, rngs=nnx.Rngs(0))
    )
    assert shapes.kernel.shape == (5, 5, 3, 8)


@pytest.mark.parametrize(
    "source",
    [
        "uniform_between(-1.0, 1.0)",
        "gaussian(1.0, 0.5)",
        "sparse_gaussian(0.0, 1.0, sparse=2)",
        "positive_unitball()",
        "bilinear()",
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_initializers_keep_the_type_they_are_asked_for(source, dtype):
    assert abstract(source, (4, 4, 2, 6), jax.numpy.dtype(dtype)).dtype == dtype


def test_initializers_differ_by_key_and_trace():
    init = ops.sparse_gaussian(0.0, 1.0, sparse=3)
    one, two = (init(jax.random.key(seed), (5, 6)) for seed in (1, 2))
    assert (np.asarray(one) != np.asarray(two)).any()
    traced = jax.jit(init, static_argnums=1)(jax.random.key(1), (5, 6))
    np.testing.assert_allclose(traced, one, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"type": "diagonal"}, ["unknown filler type 'diagonal'"]),
        ({"variance_norm": "FAN"}, ["unknown variance_norm 'FAN'"]),
        ({"type": "xavier", "sparse": 3}, ["xavier cannot be sparse: 3"]),
        ({"type": "gaussian", "sparse": -2}, ["gaussian cannot be sparse: -2"]),
        ({"type": "gaussian", "std": 0.0}, ["no gaussian filler"]),
        ({"type": "gaussian", "std": 1e-60}, ["no gaussian filler"]),
        ({"type": "gaussian", "std": float("nan")}, ["no gaussian filler"]),
        ({"type": "gaussian", "mean": float("inf")}, ["no gaussian filler"]),
        ({"type": "uniform", "min": 1.0, "max": 0.5}, ["from 1.0 to 0.5"]),
        ({"type": "uniform", "max": float("nan")}, ["no uniform filler"]),
        ({"type": "uniform", "min": -3e38, "max": 3e38}, ["no uniform filler"]),
        ({"type": "uniform", "min": 1e39, "max": 1e39}, ["no uniform filler"]),
        ({"type": "x", "variance_norm": "y"}, ["type 'x'", "variance_norm 'y'"]),
    ],
)
def test_filler_that_caffe_refuses(fields, messages):
    with pytest.raises(ConversionError) as refused:
        Filler(**fields)
    found = [problem.message for problem in refused.value.problems]
    assert len(found) == len(messages)
    assert all(map(str.__contains__, found, messages))


@pytest.mark.parametrize(
    ("filler", "shape", "message"),
    [
        (Filler(), (3, 0), "nothing to fill"),
        (Filler("xavier"), (), "needs an axis"),
        (Filler("gaussian", sparse=0), (), "needs an axis"),
        (Filler("gaussian", sparse=9), (8, 3), "more than the 8 outputs"),
        (Filler("bilinear"), (8, 1, 4, 3), "square 4-axis blob"),
        (Filler("bilinear"), (8, 4), "square 4-axis blob"),
    ],
)
def test_shape_that_caffe_cannot_fill(filler, shape, message):
    with pytest.raises(ConversionError, match=message):
        filler.sample(shape, np.random.default_rng(0))
    with pytest.raises(ConversionError, match=message):
        filler.initializer(shape)


def test_sparse_zero_keeps_nothing():
    filler = Filler("gaussian", sparse=0)
    assert not filler.sample((4, 3), np.random.default_rng(0)).any()
    assert not initialized(filler.initializer((4, 3), DENSE), (3, 4)).any()


def test_fillers_do_not_import_jax():
    code = "import sys, caffe2flax.ir.filler; sys.exit('jax' in sys.modules)"
    root = Path(__file__).parents[2]
    assert not subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=False
    ).returncode
