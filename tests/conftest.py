"""Makes JAX strict: no implicit promotion of types or ranks."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

from caffe2flax import plugins
from caffe2flax.ir.registry import LAYERS, OPERATIONS, PARAMETERS
from caffe2flax.layers import register_all

# The time of an example means nothing on a busy machine.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def be_strict() -> None:
    import jax
    from flax import nnx

    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Flax divides a sum by an integer of numpy here.
    nnx.avg_pool = jax.numpy_dtype_promotion("standard")(nnx.avg_pool)


if find_spec("jax") is not None:
    be_strict()


@pytest.fixture
def own_layers() -> Iterator[None]:
    """Removes after the test the layers that it registered."""
    register_all()
    known = set(LAYERS)
    yield
    for type_ in set(LAYERS) - known:
        del LAYERS[type_], PARAMETERS[type_]
    plugins._LOADED.clear()
    OPERATIONS.clear()
