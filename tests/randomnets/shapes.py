"""Layers that move, join and cut blobs: each takes one, and gives the tops of the layer
that it adds, None where that blob does not do."""

from __future__ import annotations

from math import prod

from tests.randomnets.net import Net, Shape


def axis_of(net: Net, shape: Shape, low: int = 0) -> tuple[int, int]:
    """An axis, and how the file names it."""
    axis = net.dice.randrange(low, len(shape))
    return axis, net.dice.choice([axis, axis - len(shape)])


def flatten(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) < 2:
        return None
    axis, named = axis_of(net, shape, net.dice.choice([0, 1, 1, 1]))
    end, named_end = axis_of(net, shape, axis)
    flat = (*shape[:axis], prod(shape[axis : end + 1]), *shape[end + 1 :])
    text = f"flatten_param {{ axis: {named} end_axis: {named_end} }}"
    return net.add("Flatten", [blob], text, flat)


def reshape(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    rest = prod(shape[1:])
    factors = [n for n in range(1, rest + 1) if rest % n == 0]
    middle = net.dice.choice(factors)
    new: Shape = (shape[0], middle, rest // middle)
    dims = [0, middle, -1]
    if net.dice.random() < 0.5:
        inner = net.dice.choice([n for n in factors if (rest // middle) % n == 0])
        new = (shape[0], middle, inner, rest // middle // inner)
        dims = [0, middle, inner, -1]
    text = " ".join(f"dim: {dim}" for dim in dims)
    return net.add("Reshape", [blob], f"reshape_param {{ shape {{ {text} }} }}", new)


def insert(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) > 4:
        return None
    axis = net.dice.randrange(1, len(shape) + 1)
    text = f"reshape_param {{ axis: {axis} num_axes: 0 shape {{ dim: 1 }} }}"
    return net.add("Reshape", [blob], text, (*shape[:axis], 1, *shape[axis:]))


def concat(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    others = [
        other
        for other, s in net.shapes.items()
        if len(s) == len(shape)
        and (*s[:axis], *s[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])
    ]
    chosen = [blob, *net.dice.choices(others, k=net.dice.choice([0, 1, 1, 2]))]
    total = sum(net.shapes[other][axis] for other in chosen)
    text = f"concat_param {{ axis: {named} }}"
    return net.add("Concat", chosen, text, (*shape[:axis], total, *shape[axis + 1 :]))


def slice_(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    if shape[axis] < 2:
        return None
    point = net.dice.randrange(1, shape[axis])
    text = f"slice_param {{ axis: {named} slice_point: {point} }}"
    parts = [
        (*shape[:axis], n, *shape[axis + 1 :]) for n in (point, shape[axis] - point)
    ]
    return net.add("Slice", [blob], text, *parts)


def unconcat(net: Net, blob: str) -> list[str] | None:
    """A Slice where a Concat has joined."""
    shape = net.shapes[blob]
    (both,) = net.add(
        "Concat",
        [blob, blob],
        "concat_param { axis: -1 }",
        (*shape[:-1], 2 * shape[-1]),
    )
    return net.add("Slice", [both], "slice_param { axis: -1 }", shape, shape)


def crop(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    likes = [
        other
        for other, s in net.shapes.items()
        if len(s) == len(shape)
        and all(a <= b for a, b in zip(s[axis:], shape[axis:], strict=True))
    ]
    like = net.shapes[other := net.dice.choice(likes)]
    offset = [
        net.dice.randrange(0, a - b + 1)
        for a, b in zip(shape[axis:], like[axis:], strict=True)
    ]
    text = " ".join(f"offset: {start}" for start in offset)
    text = f"crop_param {{ axis: {named} {text} }}"
    return net.add("Crop", [blob, other], text, (*shape[:axis], *like[axis:]))


def tile(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape)
    if prod(shape) > 400:
        return None
    tiles = net.dice.choice([1, 2, 3])
    text = f"tile_param {{ axis: {named} tiles: {tiles} }}"
    tiled = (*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :])
    return net.add("Tile", [blob], text, tiled)


def reduction(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    operation = net.dice.choice(["SUM", "ASUM", "SUMSQ", "MEAN"])
    text = f"reduction_param {{ operation: {operation} axis: {named} coeff: 0.5 }}"
    return net.add("Reduction", [blob], text, shape[:axis])


def argmax(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if net.dice.random() < 0.3:
        top_k = net.dice.randint(1, min(3, prod(shape[1:])))
        both = net.dice.choice([False, True])
        text = f"top_k: {top_k} out_max_val: {str(both).lower()}"
        top = (shape[0], 1 + both, top_k, *(1,) * (len(shape) - 3))
    else:
        axis, named = axis_of(net, shape)
        top_k = net.dice.randint(1, min(3, shape[axis]))
        text = f"axis: {named} top_k: {top_k}"
        top = (*shape[:axis], top_k, *shape[axis + 1 :])
    return net.add("ArgMax", [blob], f"argmax_param {{ {text} }}", top)
