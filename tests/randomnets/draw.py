"""A random valid net."""

from __future__ import annotations

import random
from math import prod

from tests.randomnets import losses, shapes, values, windows
from tests.randomnets.net import Net, Shape, Step, dims

MOVES = (
    *(shapes.flatten, shapes.reshape, shapes.insert, shapes.concat, shapes.concat),
    *(shapes.slice_, shapes.unconcat, shapes.crop, shapes.tile),
)
ENDS = (shapes.reduction, shapes.argmax)
MAKERS = (*windows.MAKERS * 2, *values.MAKERS, *MOVES, *ENDS)
LAST = (*losses.MAKERS, *ENDS, values.dense, values.dense, values.softmax)
LARGEST = 1500
"""Numbers of a blob that more layers may read."""


def random_net(seed: int | str, layers: int = 14) -> Net:
    """A net of up to about so many layers, a quarter of them for TRAIN; the same for a
    seed."""
    net = Net(random.Random(f"net {seed}"))
    dice = net.dice
    net.phase = dice.choice(["TEST", "TEST", "TEST", "TRAIN"])
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        source(net)
    for _ in range(dice.randint(1, layers)):
        if sum(step.type != "Input" for step in net.steps) >= layers:
            break
        dice.choice(MAKERS)(net, pick(net))
    for _ in range(dice.choice([1, 1, 2])):
        dice.choice(LAST)(net, pick(net))
    return net


def pick(net: Net) -> str:
    """A blob for the next layer to read: mostly one of the last."""
    small = [blob for blob, shape in net.shapes.items() if prod(shape) <= LARGEST]
    usable = [blob for blob in small if net.shapes[blob]] or small
    recent = usable[-3:] if net.dice.random() < 0.8 else usable
    return net.dice.choice(recent)


def source(net: Net) -> None:
    """An input, of a layer of any type that makes some."""
    dice = net.dice
    n, size = dice.randint(1, 3), [dice.randint(1, 9) for _ in range(2)]
    image = (n, dice.randint(1, 5), *size)
    databases = ["MemoryData", "Data", "ImageData", "WindowData"]
    kind = dice.choice(["Input"] * 5 + ["Volume", "Rows", *databases])
    if kind == "Volume":
        net.fed((n, dice.randint(1, 3), *(dice.randint(1, 5) for _ in range(3))))
    elif kind == "Rows":
        net.fed((dice.randint(2, 4), n, dice.randint(1, 6))[: dice.choice([2, 3, 3])])
    elif kind == "Input":
        net.fed(image)
    elif kind == "MemoryData":
        names = ("batch_size", "channels", "height", "width")
        text = "".join(f"{name}: {s} " for name, s in zip(names, image, strict=True))
        stored(net, kind, f"memory_data_param {{ {text}}}", image)
    elif kind in ("Data", "WindowData"):
        message = "data_param" if kind == "Data" else "window_data_param"
        text = f"{message} {{ source: 'd' batch_size: {n} }}"
        text += f"transform_param {{ crop_size: {size[0]} scale: 0.5 }}"
        stored(net, kind, text, (n, 3, size[0], size[0]))
    else:
        sides = f"new_height: {size[0]} new_width: {size[1]} is_color: false"
        text = f"image_data_param {{ source: 'd' batch_size: {n} {sides} }}"
        stored(net, kind, text, (n, 1, *size))


def stored(net: Net, type_: str, text: str, shape: Shape) -> None:
    """A data layer with its labels, which no other layer reads."""
    data, label = net.fresh("data"), net.fresh("label")
    net.steps.append(Step(type_, data, (), (data, label), text))
    net.shapes[data] = shape


def as_input(blob: str, shape: Shape) -> Step:
    text = f"input_param {{ shape {{ {dims(shape)}}} }}"
    return Step("Input", blob, (), (blob,), text)
