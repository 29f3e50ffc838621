"""BatchNorm in both phases, and what training leaves in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import caffe2flax
from caffe2flax.ops.batchnorm import MovingBatchNorm
from tests.golden import distance
from tests.smallnets import lying, net, numbers, run, save, single


def statistics(channels: int, factor: float) -> list[np.ndarray]:
    mean, variance = numbers(channels, seed=7), np.abs(numbers(channels, seed=8)) + 0.5
    return [mean * factor, variance * factor, np.float32([factor])]


@pytest.mark.parametrize("factor", [999.98, 1, 0, -2])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_batchnorm_at_test(
    shape: tuple[int, ...], factor: float, tmp_path: Path
) -> None:
    x, blobs = numbers(*shape), statistics(3, factor)
    inverse = 0 if factor == 0 else 1 / factor
    mean, variance = (lying(blob * inverse, x, 1) for blob in blobs[:2])
    wanted = (x - mean) / np.sqrt(variance + 1e-3)
    text = net(single("BatchNorm", "batch_norm_param { eps: 1e-3 }"), x=shape)
    y = run(text, save(tmp_path / "w", {"l": blobs}), x=x)
    assert distance(y, wanted) <= 1e-5


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("given", [None, True, False])
def test_which_statistics_are_used(
    phase: str, given: bool | None, tmp_path: Path
) -> None:
    """Those of the batch in TRAIN and the running ones in TEST, unless the prototxt has
    use_global_stats, which train() and eval() do not change."""
    x, blobs = numbers(4, 3, 2, seed=1), statistics(3, 5)
    field = "" if given is None else f"use_global_stats: {str(given).lower()}"
    text = net(single("BatchNorm", f"batch_norm_param {{ {field} }}"), x=x.shape)
    running = given if given is not None else phase == "TEST"
    axes = (0, 2)
    mean = blobs[0] / 5 if running else x.mean(axes)
    variance = blobs[1] / 5 if running else x.var(axes)
    wanted = (x - lying(mean, x, 1)) / np.sqrt(lying(variance, x, 1) + 1e-5)
    weights = save(tmp_path / "w", {"l": blobs})
    assert distance(run(text, weights, x=x, phase=phase), wanted) <= 1e-5

    if given is (phase == "TRAIN"):
        model = caffe2flax.load(text, weights, phase=phase)
        for switch in (model.train, model.eval, model.train):
            switch()
            assert distance(np.asarray(model(jnp.asarray(x))), wanted) <= 1e-5


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (3, 3, 2), (2, 3, 4, 5)])
def test_moving_averages(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Five steps of training leave what Caffe's arithmetic leaves; (1, 3) is a batch of
    a single number a channel, whose variance no factor can unbias."""
    fraction = 0.9
    text = net(
        single(
            "BatchNorm", f"batch_norm_param {{ moving_average_fraction: {fraction} }}"
        ),
        x=shape,
    )
    blobs = statistics(3, 2)
    weights = save(tmp_path / "w", {"l": blobs})
    conversion = caffe2flax.convert(text, weights, phase="TRAIN")
    (layout,) = {conversion.graph.layouts[v] for v in conversion.graph.arguments}
    model = caffe2flax.load(text, weights, phase="TRAIN")
    model.train()

    step = jax.jit(_step)
    mean, variance, factor = (blob.astype(np.float64) for blob in blobs)
    axes = tuple(i for i in range(len(shape)) if i != 1)
    for i in range(5):
        x = numbers(*shape, seed=i) * (i + 1)
        m = x.size // 3
        mean = fraction * mean + x.mean(axes, dtype=np.float64)
        unbiased = x.var(axes, dtype=np.float64) * (m / (m - 1) if m > 1 else 1)
        variance = fraction * variance + unbiased
        factor = fraction * factor + 1
        y, model = step(model, jnp.asarray(x.transpose(layout.axes)))
        assert y.shape == tuple(x.shape[axis] for axis in layout.axes)
        for name, wanted in (("mean", mean), ("var", variance), ("factor", factor)):
            assert distance(np.asarray(getattr(model.l_, name)[...]), wanted) <= 1e-6

    model.eval()
    running = (x - lying(mean / factor, x, 1)) / np.sqrt(
        lying(variance / factor, x, 1) + 1e-5
    )
    kept = model.l_.factor[...]
    y = np.asarray(model(jnp.asarray(x.transpose(layout.axes))))
    assert distance(y.transpose(np.argsort(layout.axes)), running) <= 1e-5
    assert np.array_equal(model.l_.factor[...], kept)


def _step(model: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    return model(x), model


def test_recorded_moving_averages() -> None:
    """Caffe's blobs after a forward pass in training."""
    folder = Path(__file__).parents[2] / "fixtures" / "layers"
    arrays = np.load(folder / "bn_train.npz")
    model = caffe2flax.load(
        folder / "bn_train.prototxt", folder / "bn_train.caffemodel", phase="TRAIN"
    )
    model.train()
    model(jnp.asarray(arrays["input:data"].transpose(0, 2, 3, 1)))
    for i, name in enumerate(("mean", "var", "factor")):
        after = np.asarray(getattr(model.l_, name)[...])
        assert distance(after, arrays[f"param_after:l:{i}"]) <= 1e-6


def test_in_training_a_scale_stays_apart() -> None:
    text = net(
        single("BatchNorm", top="x"),
        'name: "s" type: "Scale" bottom: "x" top: "x" scale_param { bias_term: true }',
        x=(4, 3),
    )
    assert "nnx.BatchNorm(" in caffe2flax.convert(text).source
    source = caffe2flax.convert(text, phase="TRAIN").source
    assert "self.s(self.l_(x))" in source
    frozen = text.replace(
        'type: "BatchNorm"',
        'type: "BatchNorm" batch_norm_param { use_global_stats: true }',
    )
    source = caffe2flax.convert(frozen, phase="TRAIN").source
    assert "self.l_(x, use_running_average=True)" in source


def test_moving_batchnorm_is_exported_for_any_batch() -> None:
    def forward(x: jax.Array, training: bool) -> tuple[jax.Array, ...]:
        module = MovingBatchNorm(3)
        y = module(x, use_running_average=not training)
        return y, module.mean[...], module.var[...], module.factor[...]

    (batch,) = export.symbolic_shape("b")
    x = numbers(5, 4, 3)
    for training in (True, False):
        like = jax.ShapeDtypeStruct((batch, 4, 3), jnp.float32)
        exported = export.export(jax.jit(forward, static_argnums=1))(like, training)
        for ours, wanted in zip(
            exported.call(x), forward(jnp.asarray(x), training), strict=True
        ):
            assert distance(np.asarray(ours), np.asarray(wanted)) <= 1e-6
    half = MovingBatchNorm(3)
    assert half(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    assert half.mean[...].dtype == jnp.float32


REFUSED = [
    ("BatchNorm", "", (4,), "needs 2 axes or more"),
    ("BatchNorm", "", (), "needs 2 axes or more"),
    ("BatchNorm", "param { lr_mult: 0 } param {}", (2, 3), "no parameters"),
    ("BatchNorm", "param { lr_mult: 1 }", (2, 3), "no parameters"),
    ("BatchNorm", "batch_norm_param { epsilon: 1 }", (2, 3), "unknown field epsilon"),
]


@pytest.mark.parametrize(("type_", "parameters", "shape", "message"), REFUSED)
def test_refusals(
    type_: str, parameters: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(single(type_, parameters), x=shape))


def test_frozen_statistics_may_say_so() -> None:
    zeros = "param { lr_mult: 0 } param { lr_mult: 0 }"
    caffe2flax.convert(net(single("BatchNorm", zeros), x=(2, 3)))
    old = "param {} param { lr_mult: 1 } param {}"
    caffe2flax.convert(net(single("BatchNorm", old), x=(2, 3)))
