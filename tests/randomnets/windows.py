"""Layers of sliding windows: each maker takes a blob, and gives the tops of the layer
that it adds, None where that blob does not do."""

from __future__ import annotations

from random import Random

from caffe2flax.ir.window import Window, conv_output, deconv_output, pool_output
from tests.randomnets.net import Net, Shape

LARGEST = 1500
"""Numbers of a blob."""


def per_axis(dice: Random, name: str, short: str, values: list[int]) -> str:
    """One number for all axes, one each, or `*_h` and `*_w`."""
    if len(set(values)) == 1 and dice.random() < 0.6:
        return f"{name}: {values[0]} "
    if len(values) == 2 and dice.random() < 0.5:
        return f"{short}_h: {values[0]} {short}_w: {values[1]} "
    return "".join(f"{name}: {value} " for value in values)


def each(dice: Random, count: int, choices: list[int]) -> list[int]:
    if dice.random() < 0.6:
        return [dice.choice(choices)] * count
    return [dice.choice(choices) for _ in range(count)]


def sliding(
    net: Net, sizes: Shape, *, dilated: bool = True
) -> tuple[str, list[Window]]:
    """Windows on these axes that fit them, and what the file says of them."""
    dice, count = net.dice, len(sizes)
    wanted = each(dice, count, [1, 1, 2, 3, 3, 5])
    kernels = [min(k, s) for k, s in zip(wanted, sizes, strict=True)]
    strides = each(dice, count, [1, 1, 2, 3])
    pads = [dice.randrange(k) for k in kernels] if dice.random() < 0.6 else [0] * count
    dilations = [1] * count
    if dilated and dice.random() < 0.2:
        dilations = [
            2 if 2 * (k - 1) < s + 2 * p else 1
            for k, s, p in zip(kernels, sizes, pads, strict=True)
        ]
    text = per_axis(dice, "kernel_size", "kernel", kernels)
    if set(strides) != {1}:
        text += per_axis(dice, "stride", "stride", strides)
    if any(pads):
        text += per_axis(dice, "pad", "pad", pads)
    if set(dilations) != {1}:
        text += "".join(f"dilation: {d} " for d in dilations)
    windows = [Window(*w) for w in zip(kernels, strides, pads, dilations, strict=True)]
    return text, windows


def channel_axis(net: Net, shape: Shape) -> tuple[int, str]:
    """The axis of channels, and the field that says it: mostly Caffe's default."""
    axis = 1
    if len(shape) < 3 or net.dice.random() < 0.15:
        axis = net.dice.randrange(1, len(shape))
    named = net.dice.choice([axis, axis - len(shape)])
    return axis, "" if axis == 1 and net.dice.random() < 0.8 else f"axis: {named} "


def convolution(net: Net, blob: str, type_: str = "Convolution") -> list[str] | None:
    shape = net.shapes[blob]
    if not 2 <= len(shape) <= 5:
        return None
    axis, text = channel_axis(net, shape)
    spatial = shape[axis + 1 :]
    windows: list[Window] = []
    if spatial:
        more, windows = sliding(net, spatial)
        text += more
    size = conv_output if type_ == "Convolution" else deconv_output
    axes = list(zip(spatial, windows, strict=True))
    if any(w.stride * (s - 1) + w.extent - 2 * w.pad < 1 for s, w in axes):
        return None  # too much is cut off a Deconvolution
    sizes = tuple(map(size, spatial, windows))
    group = net.dice.choice(
        [n for n in (1, 1, 1, 2, 3, shape[axis]) if not shape[axis] % n]
    )
    out = group * net.dice.choice([1, 2, 3])
    top = (*shape[:axis], out, *sizes)
    if count(top) > LARGEST:
        return None
    text += f"num_output: {out} "
    text += f"group: {group} " if group > 1 else ""
    text += "bias_term: false " if net.dice.random() < 0.2 else ""
    bottoms = [blob]
    if net.dice.random() < 0.1:
        bottoms.append(net.dice.choice(net.like(lambda s: s == shape)))
    shares = net.shared("bias_term" not in text)
    return net.add(
        type_,
        bottoms,
        f"convolution_param {{ {text}}} {shares}",
        *(top,) * len(bottoms),
    )


def deconvolution(net: Net, blob: str) -> list[str] | None:
    return convolution(net, blob, "Deconvolution")


def im2col(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) not in (3, 4) or count(shape) > 200:
        return None
    text, windows = sliding(net, shape[2:])
    columns = shape[1]
    for w in windows:
        columns *= w.kernel
    top = (shape[0], columns, *map(conv_output, shape[2:], windows))
    if count(top) > LARGEST:
        return None
    return net.add("Im2col", [blob], f"convolution_param {{ {text}}}", top)


def pooling(net: Net, blob: str) -> list[str] | None:
    """MAX with its mask or without, AVE, or behind a ReLU STOCHASTIC."""
    shape, dice = net.shapes[blob], net.dice
    if len(shape) != 4:
        return None
    methods = ["MAX", "MAX", "AVE", "AVE", "MASK"]
    method = dice.choice([*methods, "STOCHASTIC"] if net.phase == "TEST" else methods)
    text = f"pool: {'MAX' if method == 'MASK' else method} "
    if method == "STOCHASTIC":
        (blob,) = net.add("ReLU", [blob], "", shape)
    tops = 1 + (method == "MASK")
    if dice.random() < 0.15:
        text = f"pooling_param {{ {text}global_pooling: true }}"
        return net.add("Pooling", [blob], text, *((*shape[:2], 1, 1),) * tops)
    kernels = each(dice, 2, [1, 2, 2, 3, 3, 4])
    strides = each(dice, 2, [1, 2, 2, 3])
    pads = [0, 0]
    if method != "STOCHASTIC" and dice.random() < 0.4:
        pads = [dice.randrange(k) for k in kernels]
    ceil = dice.random() < 0.8
    windows = [Window(*w) for w in zip(kernels, strides, pads, strict=True)]
    room = [s + 2 * w.pad - w.kernel for s, w in zip(shape[2:], windows, strict=True)]
    if min(room) < 0:
        return None
    clip = any(pads)
    sizes = [
        pool_output(s, w, ceil=ceil, clip=clip)
        for s, w in zip(shape[2:], windows, strict=True)
    ]
    last = zip(sizes, windows, shape[2:], strict=True)
    if any((n - 1) * w.stride - w.pad >= s for n, w, s in last):
        return None  # of a window of nothing MAX gives the lowest float, AVE 0 / 0
    sides = [(kernels, "kernel_size", "kernel"), (strides, "stride", "stride")]
    for values, name, short in [*sides, (pads, "pad", "pad")]:
        if len(set(values)) == 1:
            text += f"{name}: {values[0]} "
        else:
            text += f"{short}_h: {values[0]} {short}_w: {values[1]} "
    text += "" if ceil else "round_mode: FLOOR "
    return net.add(
        "Pooling", [blob], f"pooling_param {{ {text}}}", *((*shape[:2], *sizes),) * tops
    )


def pyramid(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) != 4:
        return None
    height = net.dice.choice([1, 2, 2, 3])
    top: list[Shape] = []
    for bins in (2**level for level in range(height)):
        windows = []
        for size in shape[2:]:
            kernel = -(-size // bins)
            pad = (kernel * bins - size + 1) // 2
            if pad >= kernel:
                return None
            windows.append(Window(kernel, kernel, pad))
        clip = any(w.pad for w in windows)
        axes = zip(shape[2:], windows, strict=True)
        sizes = [pool_output(s, w, ceil=True, clip=clip) for s, w in axes]
        top.append((shape[1], *sizes))
    method = net.dice.choice(["MAX", "AVE"])
    text = f"spp_param {{ pyramid_height: {height} pool: {method} }}"
    flat = (shape[0], sum(map(count, top)))
    return net.add("SPP", [blob], text, (shape[0], *top[0]) if height == 1 else flat)


def local_response(net: Net, blob: str) -> list[str] | None:
    shape, dice = net.shapes[blob], net.dice
    if len(shape) != 4:
        return None
    text = f"local_size: {dice.choice([1, 3, 5])} alpha: {dice.choice([0.1, 1])} "
    if dice.random() < 0.4:
        text += "norm_region: WITHIN_CHANNEL "
    elif dice.random() < 0.5:
        text += f"k: {dice.choice([1, 2])} "
    return net.add("LRN", [blob], f"lrn_param {{ {text}}}", shape)


def count(shape: Shape) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


MAKERS = (
    *(convolution,) * 4,
    *(deconvolution, im2col, pyramid, local_response),
    *(pooling,) * 3,
)
