"""Losses and scores, with labels that are inputs."""

from __future__ import annotations

from math import prod

from tests.randomnets.net import Net

NEWER = ["", "", "normalization: FULL", "normalization: BATCH_SIZE"]
NORMALIZATION = [*NEWER, "normalize: false"]


def classes(net: Net, blob: str) -> list[str] | None:
    """A loss or score of classes along an axis."""
    shape, dice = net.shapes[blob], net.dice
    if len(shape) < 2:
        return None
    type_ = dice.choice(
        ["SoftmaxWithLoss", "SoftmaxWithLoss", "Accuracy", "InfogainLoss"]
    )
    axis = 1 if dice.random() < 0.7 else dice.randrange(1, len(shape))
    labels = net.fed((*shape[:axis], *shape[axis + 1 :]), "label")
    ignored = dice.choice(["", "", "ignore_label: 0"])
    averaging = f"loss_param {{ {dice.choice(NORMALIZATION)} {ignored} }}"
    if type_ == "Accuracy":
        top_k = dice.randint(1, min(3, shape[axis]))
        text = f"accuracy_param {{ axis: {axis} top_k: {top_k} {ignored} }}"
        tops = ((), (shape[axis],))[: dice.choice([1, 2])]
        return net.add(type_, [blob, labels], text, *tops)
    if type_ == "SoftmaxWithLoss":
        text = f"softmax_param {{ axis: {axis} }} {averaging} {weight(net)}"
        return net.add(type_, [blob, labels], text, ())
    averaging = f"loss_param {{ {dice.choice(NEWER)} {ignored} }}"
    matrix = net.fed((1, 1, shape[axis], shape[axis]), "H")
    text = f"infogain_loss_param {{ axis: {axis} }} {averaging} {weight(net)}"
    return net.add(type_, [blob, labels, matrix], text, ())


def weight(net: Net) -> str:
    return net.dice.choice(["", "", "loss_weight: 0.5"])


def rows(net: Net, blob: str) -> list[str] | None:
    """A loss that takes all axes behind the first for classes."""
    shape, dice = net.shapes[blob], net.dice
    if not 2 <= len(shape) <= 4:
        return None
    labels = net.fed((shape[0],), "label")
    if dice.random() < 0.5:
        norm = dice.choice(["", "hinge_loss_param { norm: L2 }"])
        return net.add("HingeLoss", [blob, labels], f"{norm} {weight(net)}", ())
    flat = (shape[0], prod(shape[1:]))
    (blob,) = net.add("Flatten", [blob], "", flat)
    (blob,) = net.add("Softmax", [blob], "", flat)
    return net.add("MultinomialLogisticLoss", [blob, labels], weight(net), ())


def pairs(net: Net, blob: str) -> list[str] | None:
    shape, dice = net.shapes[blob], net.dice
    if not 1 <= len(shape) <= 4:
        return None
    others = [other for other in net.like(lambda s: s == shape) if other != blob]
    other = dice.choice(others) if others and dice.random() < 0.7 else net.fed(shape)
    if dice.random() < 0.5:
        return net.add("EuclideanLoss", [blob, other], weight(net), ())
    text = f"loss_param {{ {dice.choice(NORMALIZATION)} }} {weight(net)}"
    (other,) = net.add("Sigmoid", [other], "", shape)
    return net.add("SigmoidCrossEntropyLoss", [blob, other], text, ())


def contrast(net: Net, blob: str) -> list[str] | None:
    shape, dice = net.shapes[blob], net.dice
    if not 2 <= len(shape) <= 4 or prod(shape[2:]) != 1:
        return None
    similar = net.fed((shape[0],), "similar")
    legacy = dice.choice(["", "legacy_version: true"])
    text = f"contrastive_loss_param {{ margin: 2 {legacy} }} {weight(net)}"
    others = [other for other in net.like(lambda s: s == shape) if other != blob]
    other = dice.choice(others) if others else net.fed(shape)
    return net.add("ContrastiveLoss", [blob, other, similar], text, ())


MAKERS = (classes, classes, classes, rows, pairs, contrast)
