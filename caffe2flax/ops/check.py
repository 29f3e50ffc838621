"""What a module takes."""

from jax import Array


def check_shape(name: str, x: Array, *sizes: int | str) -> None:
    """ValueError unless x has these sizes; a letter stands for any size."""
    pairs = zip(sizes, x.shape, strict=False)
    if len(sizes) == x.ndim and all(isinstance(n, str) or n == m for n, m in pairs):
        return
    turned = x.ndim == len(sizes) == 4 and x.shape[1] == sizes[3] != x.shape[3]
    hint = "; is this N, C, H, W, not N, H, W, C?" if turned else ""
    hint = "; is the batch axis missing?" if x.ndim + 1 == len(sizes) else hint
    wanted = ", ".join(map(str, sizes))
    raise ValueError(f"{name} must be ({wanted}), not {x.shape}{hint}")
