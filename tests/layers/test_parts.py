"""Layers that cut, repeat, join, sum up and pick, beyond the recorded cases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from caffe2flax.ops.parts import (
    argmax,
    argmax_items,
    batch_reindex,
    filter_items,
    largest,
    largest_entries,
)
from caffe2flax.runner import execute, instantiate
from tests.golden import distance
from tests.smallnets import expected, net, numbers, run, single


def outputs(text: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the module, compared with the reference."""
    found = execute(caffe2flax.convert(text), inputs, ["outputs"])
    told = expected(text, None, inputs)
    assert found.keys() == told.keys()
    for name, value in told.items():
        assert distance(found[name], value) <= 1e-5
    return found


def elementwise(parameters: str, bottoms: int, top: str = "y") -> str:
    names = ["x", "b", "c", "d"][:bottoms]
    given = f"eltwise_param {{ {parameters} }}"
    layer = single("Eltwise", given, *names[1:], top=top)
    return net(layer, **dict.fromkeys(names, (2, 3)))


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("", lambda x, b, c: x + b + c),
        ("coeff: 1 coeff: -1 coeff: -0.5", lambda x, b, c: x - b - 0.5 * c),
        ("coeff: -2 coeff: 0 coeff: 3", lambda x, b, c: 3 * c - 2 * x),
        ("coeff: 0 coeff: 0 coeff: 0", lambda x, b, c: 0 * x),
        ("operation: SUM", lambda x, b, c: x + b + c),
        ("operation: 0", lambda x, b, c: x * b * c),
        ("operation: PROD stable_prod_grad: false", lambda x, b, c: x * b * c),
        ("operation: MAX", lambda x, b, c: np.maximum(np.maximum(x, b), c)),
        (
            "operation: MAX coeff: 1 coeff: 5 coeff: 7",
            lambda x, b, c: np.maximum(np.maximum(x, b), c),
        ),
    ],
)
def test_eltwise(parameters: str, told: object) -> None:
    x, b, c = (numbers(2, 3, seed=i) for i in range(3))
    y = outputs(elementwise(parameters, 3), x=x, b=b, c=c)["y"]
    assert callable(told)
    np.testing.assert_allclose(y, told(x, b, c), rtol=1e-5, atol=1e-6)


def test_eltwise_in_place() -> None:
    """A sum in place loses its first bottom, as Caffe's does; a product does not."""
    x, b = numbers(2, 3), numbers(2, 3, seed=1)
    text = elementwise("coeff: 3 coeff: 2", 2, top="x")
    conversion = caffe2flax.convert(text)
    assert any("loses its first bottom" in note for note in conversion.notes)
    np.testing.assert_allclose(outputs(text, x=x, b=b)["x"], 2 * b)
    text = elementwise("operation: PROD", 2, top="x")
    np.testing.assert_allclose(outputs(text, x=x, b=b)["x"], x * b, rtol=1e-6)
    with pytest.raises(caffe2flax.ConversionError, match="in place"):
        caffe2flax.convert(elementwise("operation: MAX", 2, top="x"))


def test_gradient_of_equals() -> None:
    """MAX gives it to the second of the first two, then to the earlier one."""
    a = jnp.asarray([1.0, 2.0, 1.0, 0.0])
    b = jnp.asarray([1.0, 1.0, 2.0, 0.0])
    c = jnp.asarray([1.0, 2.0, 2.0, 1.0])
    gradients = jax.grad(lambda *x: largest(*x).sum(), argnums=(0, 1, 2))(a, b, c)
    np.testing.assert_array_equal(gradients[0], [0, 1, 0, 0])
    np.testing.assert_array_equal(gradients[1], [1, 0, 1, 0])
    np.testing.assert_array_equal(gradients[2], [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("tops", "parameters", "sizes"),
    [
        (3, "", (2, 2, 2)),
        (2, "slice_point: 5", (5, 1)),
        (3, "axis: -2 slice_point: 1 slice_point: 4", (1, 3, 2)),
        (1, "", (6,)),
        (2, "slice_dim: 1", (3, 3)),
    ],
)
def test_slice(tops: int, parameters: str, sizes: tuple[int, ...]) -> None:
    more = " ".join(f'top: "t{i}"' for i in range(1, tops))
    layer = single("Slice", f"{more} slice_param {{ {parameters} }}")
    found = outputs(net(layer, x=(2, 6, 4)), x=numbers(2, 6, 4))
    assert tuple(part.shape[1] for part in found.values()) == sizes
    whole = np.concatenate(list(found.values()), 1)
    np.testing.assert_array_equal(whole, numbers(2, 6, 4))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
def test_reduction(operation: str, axis: int) -> None:
    x = numbers(2, 3, 4, 5)
    given = f"reduction_param {{ operation: {operation} axis: {axis} coeff: -0.5 }}"
    y = run(net(single("Reduction", given), x=x.shape), x=x)
    terms = {"ASUM": np.abs, "SUMSQ": np.square}.get(operation, np.positive)(x)
    over = tuple(range(axis % 4, 4))
    told = terms.mean(over) if operation == "MEAN" else terms.sum(over)
    np.testing.assert_allclose(y, -0.5 * told, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_reduction_by_number(number: int) -> None:
    """The numbers of Caffe's enum start at 1."""
    given = f"reduction_param {{ operation: {number} axis: 1 }}"
    y = run(net(single("Reduction", given), x=(1, 4)), x=np.full((1, 4), -2, "f"))
    assert y == {1: -8, 2: 8, 3: 16, 4: -2}[number]


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2), (2, 3, 4, 2, 2)])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("top_k", [1, 2])
def test_argmax_items(shape: tuple[int, ...], values: bool, top_k: int) -> None:
    if len(shape) == 1 and top_k > 1:
        return
    given = f"argmax_param {{ top_k: {top_k} out_max_val: {str(values).lower()} }}"
    x = np.round(2 * numbers(*shape))
    y = run(net(single("ArgMax", given), x=shape), x=x)
    rank = max(len(shape), 3)
    assert y.shape == (shape[0], 1 + values, top_k, *(1,) * (rank - 3))
    rows = x.reshape(shape[0], -1)
    for n, row in enumerate(rows):
        ranked = sorted(((value, i) for i, value in enumerate(row)), reverse=True)
        assert [i for _, i in ranked[:top_k]] == y[n, 0].ravel().tolist()
        if values:
            assert [value for value, _ in ranked[:top_k]] == y[n, 1].ravel().tolist()


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("top_k", [1, 3])
def test_argmax_of_equals(axis: int, top_k: int) -> None:
    """Of equals the later index, minus zero and zero among them."""
    x = jnp.asarray([[0.0, -0.0, 0.0, -1.0]] * 3 + [[-0.0] * 4]).reshape(4, 4)
    found = argmax(x, axis, top_k)
    told = np.asarray(x) + 0.0
    told = np.moveaxis(told, axis, -1)
    for index in np.ndindex(4):
        ranked = sorted(((v, i) for i, v in enumerate(told[index])), reverse=True)
        mine = np.moveaxis(np.asarray(found), axis, -1)[index]
        assert mine.tolist() == [i for _, i in ranked[:top_k]]


def test_indices_in_half_precision() -> None:
    """Indices stay whole numbers where the blob's type is short."""
    x = jnp.zeros((1, 1001), jnp.bfloat16)
    assert argmax(x, -1)[0, 0] == 1000
    assert argmax_items(x, 2, True).dtype == jnp.float32
    assert largest_entries(x, -1, 2).dtype == jnp.bfloat16


def test_batch_reindex() -> None:
    """Gradients add up over repeats; no such item is NaN, where Caffe aborts."""
    x = jnp.asarray(numbers(3, 2))
    index = jnp.asarray([2.0, 0.0, 2.0])
    seed = jnp.asarray(numbers(3, 2, seed=1))
    gradient = jax.grad(lambda x: jnp.sum(batch_reindex(x, index) * seed))(x)
    told = np.zeros((3, 2), np.float32)
    np.add.at(told, [2, 0, 2], np.asarray(seed))
    np.testing.assert_allclose(gradient, told)
    beyond = batch_reindex(x, jnp.asarray([3.0, -1.0, 1.0]))
    assert np.isnan(beyond[:2]).all()
    np.testing.assert_array_equal(beyond[2], x[1])


@pytest.mark.parametrize("kept", [[1, 0, 3, 0, -1], [0] * 5, [1] * 5])
def test_filter_and_what_follows(kept: list[int]) -> None:
    """After a Filter every layer takes any number of items."""
    text = net(
        single("Filter", "", "s", top="f"),
        'name: "flat" type: "Flatten" bottom: "f" top: "flat"',
        'name: "r" type: "Reshape" bottom: "f" top: "r" '
        "reshape_param { shape { dim: 0 dim: 2 dim: 8 } }",
        'name: "m" type: "Reduction" bottom: "f" top: "m" reduction_param { axis: 1 }',
        'name: "a" type: "ArgMax" bottom: "flat" top: "a" argmax_param { axis: 1 }',
        x=(5, 4, 2, 2),
        s=(5, 1),
    )
    x, selector = numbers(5, 4, 2, 2), np.asarray(kept, "f").reshape(5, 1)
    conversion = caffe2flax.convert(text)
    assert "Not for jax.jit" in conversion.source
    found = execute(conversion, {"x": x, "s": selector}, ["outputs"])
    for name, value in expected(text, None, {"x": x, "s": selector}).items():
        assert distance(found[name], value) <= 1e-5
        assert len(found[name]) == np.count_nonzero(kept)


def test_filter_with_a_fixed_batch() -> None:
    """A shape that names the batch before the Filter does not fix what is behind it."""
    text = net(
        'name: "r" type: "Reshape" bottom: "x" top: "r" '
        "reshape_param { shape { dim: 5 dim: 8 } }",
        'name: "f" type: "Filter" bottom: "r" bottom: "s" top: "f"',
        'name: "g" type: "Reshape" bottom: "f" top: "g" '
        "reshape_param { shape { dim: 0 dim: 4 dim: 2 } }",
        x=(5, 4, 2),
        s=(5,),
    )
    kept = np.asarray([0, 1, 0, 1, 1], "f")
    assert outputs(text, x=numbers(5, 4, 2), s=kept)["g"].shape == (3, 4, 2)


def test_filter_gradient() -> None:
    """Gradients reach the items that pass, outside of jit."""
    x, s = jnp.asarray(numbers(3, 2)), jnp.asarray([1.0, 0.0, 2.0])
    gradient = jax.grad(lambda x: filter_items(x, x, s)[1].sum())(x)
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [1, 1]])


def test_crop_follows_the_reference() -> None:
    """The crop's size is the reference's at run time, also in other sizes."""
    given = "crop_param { axis: 2 offset: 1 offset: 2 }"
    text = net(single("Crop", given, "like"), x=(1, 2, 8, 8), like=(1, 5, 4, 4))
    model = instantiate(caffe2flax.convert(text))
    x = numbers(3, 9, 9, 2)
    y = model(jnp.asarray(x), jnp.zeros((3, 6, 5, 5)))
    np.testing.assert_array_equal(y, x[:, 1:7, 2:7])


def test_crop_by_a_blob_of_more_axes() -> None:
    given = "crop_param { axis: 1 }"
    text = net(single("Crop", given, "like"), x=(2, 4, 5), like=(2, 3, 5, 7))
    x = numbers(2, 4, 5)
    y = outputs(text, x=x, like=numbers(2, 3, 5, 7))["y"]
    np.testing.assert_array_equal(y, x[:, :3])


def test_flatten_inserts_an_axis() -> None:
    """end_axis just before axis makes an axis of 1."""
    text = net(single("Flatten", "flatten_param { axis: 2 end_axis: 1 }"), x=(2, 3, 4))
    assert run(text, x=numbers(2, 3, 4)).shape == (2, 3, 1, 4)


def test_items_that_merge_with_an_axis() -> None:
    """The batch times an axis is no batch to flatten by."""
    text = net(
        single("Reshape", "reshape_param { shape { dim: -1 dim: 3 } }"), x=(2, 4, 3)
    )
    x = numbers(5, 4, 3)
    assert outputs(text, x=x)["y"].shape == (20, 3)


def test_square_at_another_batch() -> None:
    """A reshape that changes nothing at the file's batch still does at others."""
    text = net(
        single("Reshape", "reshape_param { shape { dim: 2 dim: -1 } }"), x=(2, 2)
    )
    assert outputs(text, x=numbers(4, 2))["y"].shape == (2, 4)


REFUSED = {
    "slice: uneven": single("Slice", 'top: "z"'),
    "slice: points": single("Slice", 'top: "z" slice_param { slice_point: [1, 2] }'),
    "slice: order": single(
        "Slice", 'top: "z" top: "w" slice_param { slice_point: [2, 1] }'
    ),
    "slice: zero": single("Slice", 'top: "z" slice_param { slice_point: 0 }'),
    "slice: beyond": single("Slice", 'top: "z" slice_param { slice_point: 5 }'),
    "slice: both": single("Slice", "slice_param { axis: 1 slice_dim: 1 }"),
    "slice: axis": single("Slice", "slice_param { axis: 3 }"),
    "concat: both": single("Concat", "concat_param { axis: 1 concat_dim: 1 }"),
    "concat: shapes": single("Concat", "concat_param { axis: 2 }", "v"),
    "concat: negative": single("Concat", "concat_param { concat_dim: -1 }"),
    "tile: none": single("Tile"),
    "tile: zero": single("Tile", "tile_param { tiles: 0 }"),
    "tile: axis": single("Tile", "tile_param { tiles: 2 axis: 3 }"),
    "tile: size": single("Tile", "tile_param { tiles: 2000000000 }"),
    "crop: offsets": single("Crop", "crop_param { axis: 0 offset: [0, 0] }", "v"),
    "crop: offset": single("Crop", "crop_param { axis: 1 offset: 3 }", "v"),
    "crop: negative": single("Crop", "crop_param { axis: 1 offset: -1 }", "v"),
    "crop: axes": single("Crop", "crop_param { axis: 1 }", "s"),
    "crop: one bottom": single("Crop"),
    "reduction: axis": single("Reduction", "reduction_param { axis: 3 }"),
    "reduction: enum": single("Reduction", "reduction_param { operation: 0 }"),
    "argmax: top_k": single("ArgMax", "argmax_param { top_k: 0 }"),
    "argmax: too many": single("ArgMax", "argmax_param { axis: 1 top_k: 6 }"),
    "argmax: axis": single("ArgMax", "argmax_param { axis: -4 }"),
    "reindex: axes": single("BatchReindex", "", "v"),
    "filter: items": single("Filter", "", "t"),
    "filter: selector": single("Filter", "", "v"),
    "filter: tops": single("Filter", 'top: "z"', "s"),
    "eltwise: shapes": single("Eltwise", "", "v"),
    "eltwise: product": single(
        "Eltwise", "eltwise_param { operation: PROD coeff: [1, 1] }", "x"
    ),
    "silence: top": single("Silence"),
    "flatten: order": single("Flatten", "flatten_param { axis: 2 end_axis: 0 }"),
    "flatten: in place": single("Flatten", "", top="x"),
    "split: in place": single("Split", "", top="x"),
    "reshape: two": single("Reshape", "reshape_param { shape { dim: [-1, -1] } }"),
    "reshape: copy": single("Reshape", "reshape_param { axis: 3 shape { dim: [0] } }"),
    "reshape: axis": single("Reshape", "reshape_param { axis: 4 shape { dim: 1 } }"),
    "reshape: no room": single("Reshape", "reshape_param { shape { dim: [7, -1] } }"),
}


@pytest.mark.parametrize("layer", REFUSED.values(), ids=REFUSED.keys())
def test_refused(layer: str) -> None:
    text = net(layer, x=(3, 5, 4), v=(3, 3, 2), s=(3,), t=(4,))
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(text)
    assert all(problem.message for problem in refused.value.problems)
