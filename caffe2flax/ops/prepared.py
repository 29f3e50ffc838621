"""Kernels prepared once, for a module that is called often."""

import functools
from typing import Any

import jax
from flax import nnx
from jax import Array

from caffe2flax.ops.conv import Conv
from caffe2flax.ops.onednn import keeps_programs, onednn_primitive
from caffe2flax.ops.winograd import tile_size, tiled_kernel


def with_tiled_kernels(
    model: nnx.Module, made: dict[tuple[int, int], Array], *inputs: Array
) -> nnx.Module:
    """`model`, to be run on such inputs on this process's CPU, with the kernels of its
    Convs prepared for Winograd's algorithm where that is faster.

    made: prepared kernels, by the number of the Conv and its tile; what it lacks is
    put in.
    """
    if onednn_primitive() is None or keeps_programs():
        return model
    tiles = fitting_tiles(model, *inputs)
    tiled: nnx.Module = jax.tree.map(lambda array: array, model)
    chosen = {(n, tiles[n]): c for n, c in enumerate(convs(tiled)) if tiles.get(n)}
    missing = [key for key in chosen if key not in made]
    if missing:
        kernels = [chosen[key].kernel[...] for key in missing]
        sizes = tuple(tile for _, tile in missing)
        made.update(zip(missing, tiled_kernels(sizes, kernels), strict=True))
    for key, conv in chosen.items():
        conv.tiled = nnx.data(made[key])
    return tiled


def fitting_tiles(model: nnx.Module, *inputs: Array) -> dict[int, int]:
    """For each Conv of the model, by its number, the tiles by which Winograd's
    algorithm is faster on such inputs; 0 where it is not, at all or at every call."""
    weights, tree = jax.tree.flatten(model)
    found: dict[int, int] = {}

    def note(number: int, own: Array, x: Array, kernel: Array, pads: Any) -> int:
        tile = tile_size(x, kernel, pads, prepared=True) if kernel is own else 0
        found[number] = min(tile, found.get(number, tile))
        return 0

    def watched(weights: list[Array], *inputs: Array) -> Any:
        whole = jax.tree.unflatten(tree, weights)
        for number, conv in enumerate(convs(whole)):
            if conv.kernel is not None:
                conv.tiling = functools.partial(note, number, conv.kernel[...])
        return whole(*inputs)

    jax.eval_shape(watched, weights, *inputs)
    return found


def convs(model: nnx.Module) -> list[Conv]:
    """The Convs of a module, always in one order."""
    return [part for _, part in nnx.iter_modules(model) if isinstance(part, Conv)]


@functools.partial(jax.jit, static_argnums=0)
def tiled_kernels(tiles: tuple[int, ...], kernels: list[Array]) -> list[Array]:
    """`tiled_kernel` of each kernel with its tile."""
    return list(map(tiled_kernel, kernels, tiles))
