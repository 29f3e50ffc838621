"""Filters on the permutohedral lattice, and the mean field of a CRF that uses them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


def lattice_vertices(features: Array) -> tuple[Array, Array]:
    """The simplex of the lattice around each point: d + 1 vertices (P, d + 1, d) for
    features (P, d), the last coordinate left out, and weights (P, d + 1)."""
    d = features.shape[1]
    size = d + 1
    steps = np.arange(d)
    scale = 1 / np.sqrt((steps + 1) * (steps + 2)) * np.float32(np.sqrt(2 / 3) * size)
    total = jnp.zeros(len(features), features.dtype)
    lifted = list[Array]()
    for i in range(d, 0, -1):
        entry = features[:, i - 1] * np.float32(scale[i - 1])
        lifted.insert(0, total - i * entry)
        total = total + entry
    place = jnp.stack([total, *lifted], 1)
    near = jnp.round(place * np.float32(1 / size)).astype(jnp.int32)
    rest = place - (near * size).astype(place.dtype)
    own, other = np.arange(size)[:, None], np.arange(size)
    # The place of each coordinate by size, the earlier one first among equals.
    smaller = rest[:, :, None] < rest[:, None, :]
    same = (rest[:, :, None] == rest[:, None, :]) & (other < own)[None]
    rank = (smaller | same).sum(2) + near.sum(1, keepdims=True)
    shift = (rank < 0).astype(jnp.int32) - (rank > d).astype(jnp.int32)
    near, rank = near * size + shift * size, rank + shift * size
    far = (place - near.astype(place.dtype)) * np.float32(1 / size)
    points = np.arange(len(features))[:, None]
    shares = jnp.zeros((len(features), size + 1), features.dtype)
    shares = shares.at[points, d - rank].add(far).at[points, size - rank].add(-far)
    weights = shares[:, :size].at[:, 0].add(1 + shares[:, size])
    corner = np.arange(size).reshape(1, -1, 1)
    moved = jnp.where(rank[:, None] > d - corner, corner - size, corner)
    return (near[:, None] + moved)[:, :, :d], weights


def find_rows(table: Array, rows: Array) -> Array:
    """The place of each of `rows` in `table`, whose rows are in order; its length for
    one that is not there."""
    count = len(table)

    def before(place: Array) -> tuple[Array, Array]:
        less, same = jnp.zeros(len(rows), bool), jnp.ones(len(rows), bool)
        for a, b in zip(table[place].T, rows.T, strict=True):
            less, same = less | (same & (a < b)), same & (a == b)
        return less, same

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        less = before(jnp.minimum(middle, count - 1))[0] & (low < high)
        return jnp.where(less, middle + 1, low), jnp.where(less, high, middle)

    zeros = jnp.zeros(len(rows), jnp.int32)
    ends = (zeros, zeros + count)
    low, _ = lax.fori_loop(0, count.bit_length(), halve, ends)
    _, same = before(jnp.minimum(low, count - 1))
    return jnp.where(same & (low < count), low, count)


def lattice_filter(features: Array) -> tuple[Array, Array, Array, Array]:
    """The lattice of points with these features (P, d), for `blur`.

    The vertices of each point and their weights (P, d + 1), and the neighbours of each
    vertex along each of d + 1 axes; a place behind all stands for one that is missing.
    """
    vertices, weights = lattice_vertices(lax.stop_gradient(features))
    points, size, d = vertices.shape
    rows = vertices.reshape(-1, d)
    order = jnp.lexsort(rows.T[::-1])
    ordered = rows[order]
    first = jnp.any(ordered[1:] != ordered[:-1], 1)
    number = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(first)])
    vertex = jnp.zeros(len(rows), jnp.int32).at[order].set(number)
    # Rows behind the last vertex are larger than all.
    most = np.iinfo(np.int32).max
    table = jnp.full(rows.shape, most, jnp.int32).at[vertex].set(rows)
    there = jnp.arange(len(rows)) <= number[-1]

    def beside(step: Array) -> tuple[Array, Array]:
        found = jnp.where(there, find_rows(table, table + step[None]), len(rows))
        found = jnp.where(found <= number[-1], found, len(rows))
        back = jnp.full(len(rows) + 1, len(rows), jnp.int32)
        return found, back.at[found].set(jnp.arange(len(rows)))[: len(rows)]

    steps = np.where(np.arange(size)[:, None] == np.arange(d), d, -1).astype(np.int32)
    after, behind = lax.map(beside, jnp.asarray(steps))
    return vertex.reshape(points, size), weights, after, behind


def blur(x: Array, lattice: tuple[Array, Array, Array, Array]) -> Array:
    """x (P, C) filtered with a Gaussian of the features of `lattice`."""
    vertex, weights, after, behind = lattice
    points, size = vertex.shape
    rows, channels = after.shape[1], x.shape[1]
    shares = (weights[:, :, None] * x[:, None]).reshape(points * size, channels)
    values = jnp.zeros((rows + 1, channels), x.dtype).at[vertex.ravel()].add(shares)

    def along(values: Array, neighbours: tuple[Array, Array]) -> tuple[Array, None]:
        one, other = neighbours
        beside = jnp.pad((values[one] + values[other]) / 2, ((0, 1), (0, 0)))
        return (values + beside).at[rows].set(0), None

    values, _ = lax.scan(along, values, (after, behind))
    mixed = (weights[:, :, None] * values[vertex]).sum(1)
    return mixed / (1 + 2.0 ** (1 - size))


class MeanField(nnx.Module):
    """Mean field of a dense CRF over (N, H, W, C) scores, by Gaussians of places and of
    places and colours.

    theta: widths in pixels of the places of the second, in colours of it, and in
    pixels of the first.
    """

    def __init__(
        self,
        channels: int,
        *,
        iterations: int,
        theta: tuple[float, float, float],
        rngs: nnx.Rngs,
    ):
        eye, key = nnx.initializers.normal(1.0), rngs.params
        shape = (channels, channels)
        self.spatial = nnx.Param(eye(key(), shape, jnp.float32))
        self.bilateral = nnx.Param(eye(key(), shape, jnp.float32))
        self.compatibility = nnx.Param(eye(key(), shape, jnp.float32))
        self.iterations = iterations
        self.theta = theta

    def __call__(self, unary: Array, scores: Array, image: Array) -> Array:
        """unary, the scores to start from, and the image, all of one size."""
        pairs = zip(unary, scores, image, strict=True)
        return jnp.stack([self.one(*each) for each in pairs])

    def one(self, unary: Array, scores: Array, image: Array) -> Array:
        """The same of one image, without the axis of images."""
        height, width, channels = unary.shape
        alpha, beta, gamma = self.theta
        rows, columns = jnp.indices((height, width), jnp.float32).reshape(2, -1)
        # The barrier keeps the compiler from sorting the constant places itself.
        at = lax.optimization_barrier(jnp.stack([columns, rows], 1))
        colours = image.reshape(height * width, -1).astype(jnp.float32)
        filters = [
            lattice_filter(at / gamma),
            lattice_filter(jnp.concatenate([at / alpha, colours / beta], 1)),
        ]
        ones = jnp.ones((height * width, 1), jnp.float32)
        norms = [blur(ones, each) + 1e-20 for each in filters]
        kernels = self.spatial[...], self.bilateral[...]
        start = unary.reshape(-1, channels).astype(jnp.float32)

        def step(x: Array, _: None) -> tuple[Array, None]:
            p = jax.nn.softmax(x)
            parts = zip(filters, norms, kernels, strict=True)
            message = sum(blur(p, f) / norm @ kernel for f, norm, kernel in parts)
            return start - message @ self.compatibility[...], None

        x = scores.reshape(-1, channels).astype(jnp.float32)
        x, _ = lax.scan(step, x, length=self.iterations)
        return x.reshape(unary.shape).astype(unary.dtype)
