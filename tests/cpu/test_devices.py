"""Several devices, in a process that has them."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import jax, numpy as np, jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import caffe2flax

conv = nnx.Conv(4, 8, (3, 3), rngs=nnx.Rngs(0))
x = np.random.default_rng(0).standard_normal((4, 9, 9, 4), np.float32)
forward, true = caffe2flax.compile(conv), np.asarray(conv(x))

def right(y):
    assert np.abs(np.asarray(y) - true).max() < 1e-5
    return y

here, other, *_ = jax.devices()
right(forward(x))
assert "convolution with what follows" in forward.explain(x)
right(forward(jax.device_put(x, here)))
assert right(forward(jax.device_put(x, other))).devices() == {other}
plain = "arrays are on other devices"
assert plain in forward.explain(jax.device_put(x, other))

for kinds in ((AxisType.Auto,), (AxisType.Explicit,)):
    mesh = jax.make_mesh((4,), ("n",), axis_types=kinds)
    spread = jax.device_put(x, NamedSharding(mesh, P("n")))
    assert plain in forward.explain(spread)
    y = right(forward(spread))
    assert len(y.devices()) == 4
    with jax.set_mesh(mesh):
        right(forward(x))
        assert "a mesh is set" in forward.explain(x)
    right(forward(x))

with jax.default_device(other):
    assert right(forward(x)).devices() == {other}
moved = jax.tree.map(lambda w: jax.device_put(w, other), conv)
away = caffe2flax.compile(moved)
assert right(away(x)).devices() == {other}
assert plain in away.explain(x)
"""


def test_several_devices() -> None:
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
