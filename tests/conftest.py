"""JAX as strict as it gets: no silent promotion of types or ranks."""

from importlib.util import find_spec

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a busy machine.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def _be_strict() -> None:
    import jax
    from flax import nnx

    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # Flax divides a sum by an integer of numpy here.
    nnx.avg_pool = jax.numpy_dtype_promotion("standard")(nnx.avg_pool)


if find_spec("jax") is not None:
    _be_strict()
