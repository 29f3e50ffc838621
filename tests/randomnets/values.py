"""Layers that keep the shape of their bottom or take weights for it, and what picks
items."""

from __future__ import annotations

from math import prod

from tests.randomnets.net import Net, Shape
from tests.randomnets.shapes import axis_of

FUNCTIONS = {
    "AbsVal": [""],
    "BNLL": [""],
    "Clip": ["clip_param { min: -0.5 max: 0.7 }"],
    "ELU": ["", "elu_param { alpha: 0.5 }"],
    "ReLU": ["", "", "relu_param { negative_slope: 0.1 }"],
    "Sigmoid": [""],
    "Swish": ["", "swish_param { beta: 0.5 }"],
    "TanH": [""],
    "Threshold": ["threshold_param { threshold: 0.1 }"],
    "Power": ["power_param { scale: 0.5 shift: 1 }", "power_param { power: 2 }"],
    "Dropout": ["dropout_param { dropout_ratio: 0.3 }"],
}
BOUNDED = {
    "Exp": ["", "exp_param { base: 2 scale: 0.5 shift: 1 }"],
    "Log": ["log_param { shift: 3 }", "log_param { base: 10 shift: 2 scale: 0.5 }"],
    "Power": [
        "power_param { power: 0.5 shift: 2 }",
        "power_param { power: -1 shift: 3 }",
    ],
}
"""Functions that want a bounded bottom: a TanH stands before them."""


def function(net: Net, blob: str) -> list[str] | None:
    type_ = net.dice.choice(list(FUNCTIONS))
    text = net.dice.choice(FUNCTIONS[type_])
    if type_ == "Dropout" and net.phase == "TRAIN":
        text = "dropout_param { dropout_ratio: 0 }"
    if type_ == "AbsVal":  # not in place
        return net.add(type_, [blob], text, net.shapes[blob])
    return net.same(type_, blob, text)


def bounded(net: Net, blob: str) -> list[str] | None:
    (blob,) = net.add("TanH", [blob], "", net.shapes[blob])
    type_ = net.dice.choice(list(BOUNDED))
    return net.same(type_, blob, net.dice.choice(BOUNDED[type_]))


def softmax(net: Net, blob: str) -> list[str] | None:
    _, named = axis_of(net, net.shapes[blob])
    return net.same("Softmax", blob, f"softmax_param {{ axis: {named} }}")


def slopes(net: Net, blob: str) -> list[str] | None:
    if not 2 <= len(net.shapes[blob]) <= 4:
        return None
    shared = net.dice.choice(["", "prelu_param { channel_shared: true }"])
    return net.same("PReLU", blob, shared)


def batch_norm(net: Net, blob: str) -> list[str] | None:
    """With a Scale behind it, mostly."""
    shape, dice = net.shapes[blob], net.dice
    if len(shape) < 2 or count_apart(shape, 1) < 4:
        return None
    text = dice.choice(["", "", "eps: 0.001 ", "use_global_stats: true "])
    tops = net.same("BatchNorm", blob, f"batch_norm_param {{ {text}}}")
    if dice.random() < 0.7:
        bias = dice.choice(["bias_term: true", "bias_term: true", ""])
        tops = net.same("Scale", tops[0], f"scale_param {{ {bias} }}")
    return tops


def count_apart(shape: Shape, axis: int) -> int:
    return prod(shape) // shape[axis]


def scale(net: Net, blob: str) -> list[str] | None:
    """A Scale or Bias, of its own weights or by a second bottom."""
    shape, dice = net.shapes[blob], net.dice
    type_ = dice.choice(["Scale", "Bias"])
    axis = dice.randrange(len(shape)) if dice.random() < 0.5 else min(1, len(shape) - 1)
    if not shape:
        return None
    axes = dice.randint(1, len(shape) - axis)
    named = dice.choice([axis, axis - len(shape)])
    bias = " bias_term: true" if type_ == "Scale" and dice.random() < 0.5 else ""
    message = type_.lower() + "_param"
    if dice.random() < 0.3:
        covered = shape[axis : axis + axes]
        found = [other for other in net.like(lambda s: s == covered) if other != blob]
        other = dice.choice(found) if found else net.fed(covered)
        text = f"{message} {{ axis: {named}{bias} }}"
        return net.add(type_, [blob, other], text, shape)
    number = -1 if axis + axes == len(shape) and dice.random() < 0.5 else axes
    text = f"{message} {{ axis: {named} num_axes: {number}{bias} }}"
    return net.same(type_, blob, text)


def normalize(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) != 4 or prod(shape[2:]) < 4:
        return None
    choices = ["", "normalize_variance: false", "across_channels: true", "eps: 0.01"]
    return net.add("MVN", [blob], f"mvn_param {{ {net.dice.choice(choices)} }}", shape)


def eltwise(net: Net, blob: str) -> list[str] | None:
    shape, dice = net.shapes[blob], net.dice
    others = net.like(lambda s: s == shape)
    chosen = [blob, *dice.choices(others, k=dice.choice([1, 1, 2]))]
    operation = dice.choice(["SUM", "SUM", "PROD", "MAX"])
    text = f"operation: {operation} "
    if operation == "SUM" and dice.random() < 0.5:
        text += "".join(f"coeff: {dice.choice([1, -1, 0.5])} " for _ in chosen)
    return net.add("Eltwise", chosen, f"eltwise_param {{ {text}}}", shape)


def dense(net: Net, blob: str) -> list[str] | None:
    shape, dice = net.shapes[blob], net.dice
    if len(shape) < 2:
        return None
    axis, named = (1, 1) if dice.random() < 0.6 else axis_of(net, shape, 1)
    out = dice.choice([1, 2, 3, 5])
    text = f"num_output: {out} axis: {named} "
    text += "transpose: true " if dice.random() < 0.2 else ""
    text += "bias_term: false " if dice.random() < 0.2 else ""
    shares = net.shared("bias_term" not in text)
    text = f"inner_product_param {{ {text}}} {shares}"
    return net.add("InnerProduct", [blob], text, (*shape[:axis], out))


def embed(net: Net, blob: str) -> list[str] | None:
    shape = net.dice.choice([(3,), (2, 3), (4, 1)])
    bias = net.dice.choice(["", "bias_term: false"])
    text = f"embed_param {{ input_dim: 5 num_output: 3 {bias} }}"
    return net.add("Embed", [net.fed(shape, "ids")], text, (*shape, 3))


def reindex(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if not shape:
        return None
    index = net.fed((net.dice.randint(1, 4),), "index")
    top = (*net.shapes[index], *shape[1:])
    return net.add("BatchReindex", [blob, index], "", top)


def recurrent(net: Net, blob: str) -> list[str] | None:
    """An RNN or LSTM on a blob (T, N, ...), with a static input and exposed states or
    without."""
    shape, dice = net.shapes[blob], net.dice
    if len(shape) < 3:
        return None
    type_ = dice.choice(["RNN", "LSTM", "LSTM"])
    bottoms = [blob, net.fed(shape[:2], "cont")]
    width = dice.choice([2, 3])
    if dice.random() < 0.3:
        bottoms.append(net.fed((shape[1], dice.choice([2, 4])), "static"))
    text, tops = f"num_output: {width} ", [(*shape[:2], width)]
    if dice.random() < 0.3:
        state = (1, shape[1], width)
        states = 2 if type_ == "LSTM" else 1
        bottoms += [net.fed(state, "state") for _ in range(states)]
        tops += [state] * states
        text += "expose_hidden: true "
    text += 'weight_filler { type: "uniform" min: -0.5 max: 0.5 } '
    return net.add(type_, bottoms, f"recurrent_param {{ {text}}}", *tops)


def unit(net: Net, blob: str) -> list[str] | None:
    n, d = net.dice.randint(1, 3), net.dice.randint(1, 3)
    bottoms = [net.fed((1, n, d)), net.fed((1, n, 4 * d)), net.fed((1, n), "cont")]
    return net.add("LSTMUnit", bottoms, "", (1, n, d), (1, n, d))


def constant(net: Net, blob: str) -> list[str] | None:
    """A blob without an input: DummyData or Parameter, added to another."""
    shape = net.shapes[blob]
    dims = "".join(f"dim: {extent} " for extent in shape)
    if net.dice.random() < 0.5 and shape:
        text = f"parameter_param {{ shape {{ {dims}}} }}"
        (made,) = net.add("Parameter", [], text, shape)
    else:
        filler = 'data_filler { type: "constant" value: 0.5 }'
        text = f"dummy_data_param {{ shape {{ {dims}}} {filler} }}"
        (made,) = net.add("DummyData", [], text, shape)
    return net.add("Eltwise", [blob, made], "", shape)


def split(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    return net.add("Split", [blob], "", *(shape,) * net.dice.choice([1, 2, 3]))


def silence(net: Net, blob: str) -> list[str] | None:
    if net.dice.random() < 0.5:
        text = "hdf5_output_param { file_name: 'h' }"
        return net.add("HDF5Output", [blob, blob], text)
    return net.add("Silence", [blob], "")


def items(net: Net, blob: str) -> list[str] | None:
    """A Filter: nothing comes behind it, as its size is not known."""
    shape = net.shapes[blob]
    if not shape:
        return None
    chosen = net.fed((shape[0],), "chosen")
    tops = net.add("Filter", [blob, chosen], "", shape)
    for top in tops:
        del net.shapes[top]
    return []


def shared(net: Net, blob: str) -> list[str] | None:
    """A second layer with the weights of an earlier one."""
    named = [s for s in net.steps if "param { name" in s.text and len(s.bottoms) == 1]
    if not named:
        return None
    step = net.dice.choice(named)
    wanted, top = net.shapes.get(step.bottoms[0]), net.shapes.get(step.tops[0])
    if wanted is None or top is None:
        return None
    bottom = net.dice.choice(net.like(lambda s: s == wanted))
    return net.add(step.type, [bottom], step.text, top)


def blocks(net: Net, blob: str) -> list[str] | None:
    """Some residual blocks, alike but for a number or not even that."""
    shape, dice = net.shapes[blob], net.dice
    if len(shape) != 4 or count_apart(shape, 1) < 4:
        return None
    kernels = dice.choice([[3, 3], [3, 3, 3], [1, 3], [3, 5]])
    normed, prefix = dice.random() < 0.5, net.fresh("u")
    for i, kernel in enumerate(kernels):
        name = f"{prefix}_{i}"
        text = f"num_output: {shape[1]} kernel_size: {kernel} pad: {kernel // 2}"
        text = f"convolution_param {{ {text} }}"
        (top,) = net.add("Convolution", [blob], text, shape, name=f"{name}/conv")
        if normed:
            (top,) = net.same("BatchNorm", top, "", name=f"{name}/bn")
            bias = "scale_param { bias_term: true }"
            (top,) = net.same("Scale", top, bias, name=f"{name}/scale")
        (top,) = net.same("ReLU", top, "", name=f"{name}/relu")
        (blob,) = net.add("Eltwise", [blob, top], "", shape, name=f"{name}/sum")
    return [blob]


MAKERS = (
    *(function,) * 5,
    *(bounded, softmax, slopes, batch_norm, batch_norm, scale, scale, normalize),
    *(eltwise, dense, dense, dense, embed, reindex, recurrent, unit, constant, split),
    *(silence, items, shared, shared, blocks, blocks),
)
