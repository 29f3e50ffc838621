"""The moments in the state of an optimizer, whatever surrounds them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from caffe2flax.training.library.moments import get_moments, set_moments


class Net(nnx.Module):
    """Names that optimizers have, too."""

    def __init__(self, rngs: nnx.Rngs):
        self.trace = nnx.Linear(2, 3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs)])
        self.frozen = nnx.Linear(3, 3, rngs=rngs)


def transformation(passes: int) -> optax.GradientTransformation:
    rule = optax.chain(
        optax.add_decayed_weights(0.1),
        optax.scale_by_schedule(lambda i: 0.1),
        optax.trace(0.9),
        optax.scale_by_rms(),
    )
    made = optax.partition(
        {"w": rule, "frozen": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if "frozen" in str(path) else "w", params
        ),
    )
    whole = optax.chain(optax.clip_by_global_norm(1.0), made)
    return optax.MultiSteps(whole, passes) if passes > 1 else whole


FIELDS = ("trace", "nu")
NAMES = {"trace.kernel", "trace.bias", "blocks.0.kernel", "blocks.0.bias"}


@pytest.mark.parametrize("passes", [1, 3])
def test_moments(passes: int) -> None:
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transformation(passes), wrt=nnx.Param)
    found = get_moments(optimizer.opt_state, FIELDS)
    assert [each.keys() for each in found] == [NAMES] * 2
    given = [
        {name: np.full(x.shape, i + 1.0, np.float32) for name, x in each.items()}
        for i, each in enumerate(found)
    ]
    optimizer.opt_state = set_moments(optimizer.opt_state, FIELDS, given, 17)
    again = get_moments(optimizer.opt_state, FIELDS)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, given))
    counts = get_moments(optimizer.opt_state, ("count",))
    assert counts == [{"": 17}]
    gradients = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        nnx.jit(lambda m, o, g: o.update(m, g))(model, optimizer, gradients)
    (later,) = get_moments(optimizer.opt_state, ("trace",))
    assert all(np.isfinite(x).all() for x in later.values())


def test_a_plain_state_of_optax() -> None:
    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    state = transformation(1).init(params)
    (found,) = get_moments(state, ("trace",))
    assert found.keys() == NAMES


def test_a_history_of_another_solver() -> None:
    state = transformation(1).init(nnx.state(Net(nnx.Rngs(0)), nnx.Param))
    with pytest.raises(ValueError, match="the state of another solver"):
        set_moments(state, FIELDS, [{}], 1)
