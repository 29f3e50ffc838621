"""Prototxts of published architectures, at any width, as their authors named things."""

from __future__ import annotations

from collections.abc import Iterator


def layer(name: str, type_: str, bottoms: str, top: str = "", **params: str) -> str:
    """One `layer { ... }`; `bottoms` are separated by spaces."""
    given = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    fields = " ".join(f"{key} {{ {value} }}" for key, value in params.items())
    head = f'name: "{name}" type: "{type_}"'
    return f'layer {{ {head} {given} top: "{top or name}" {fields} }}'


def data(size: int) -> str:
    shape = f"shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}"
    return (
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}'
    )


def conv(name: str, bottom: str, out: int, text: str) -> str:
    return layer(
        name, "Convolution", bottom, convolution_param=f"num_output: {out} {text}"
    )


def relu(name: str, blob: str) -> str:
    return layer(name, "ReLU", blob, blob)


def pool(name: str, bottom: str, text: str) -> str:
    return layer(name, "Pooling", bottom, pooling_param=text)


def fc(name: str, bottom: str, out: int) -> str:
    return layer(name, "InnerProduct", bottom, inner_product_param=f"num_output: {out}")


def softmax(bottom: str) -> str:
    return layer("prob", "Softmax", bottom)


DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int, width: int = 64, size: int = 224, classes: int = 1000) -> str:
    """ResNet-50, -101 or -152 with Kaiming He's layer names."""
    return "\n".join(_resnet(depth, width, size, classes))


def _resnet(depth: int, width: int, size: int, classes: int) -> Iterator[str]:
    def conv_bn(name: str, bottom: str, out: int, text: str) -> Iterator[str]:
        suffix = name.removeprefix("res").removeprefix("conv")
        number = suffix if name.startswith("res") else f"_{name}"
        yield conv(name, bottom, out, f"{text} bias_term: false")
        yield layer(
            f"bn{number}",
            "BatchNorm",
            name,
            name,
            batch_norm_param="use_global_stats: true",
        )
        yield layer(
            f"scale{number}", "Scale", name, name, scale_param="bias_term: true"
        )

    yield f'name: "ResNet-{depth}"'
    yield data(size)
    yield from conv_bn("conv1", "data", width, "kernel_size: 7 pad: 3 stride: 2")
    yield relu("conv1_relu", "conv1")
    yield pool("pool1", "conv1", "kernel_size: 3 stride: 2 pool: MAX")
    last = "pool1"
    for stage, count in enumerate(DEPTHS[depth]):
        inner, outer = width << stage, width << stage + 2
        for i in range(count):
            many = count > 6
            block = f"{stage + 2}" + (
                "a" if not i else f"b{i}" if many else "abcdef"[i]
            )
            stride = f"stride: {1 if i or not stage else 2}"
            shortcut = last
            if not i:
                shortcut = f"res{block}_branch1"
                yield from conv_bn(shortcut, last, outer, f"kernel_size: 1 {stride}")
            previous = last
            for letter, out, text in (
                ("a", inner, f"kernel_size: 1 {stride}"),
                ("b", inner, "kernel_size: 3 pad: 1"),
                ("c", outer, "kernel_size: 1"),
            ):
                name = f"res{block}_branch2{letter}"
                yield from conv_bn(name, previous, out, text)
                if letter != "c":
                    yield relu(f"{name}_relu", name)
                previous = name
            yield layer(f"res{block}", "Eltwise", f"{shortcut} {previous}")
            yield relu(f"res{block}_relu", f"res{block}")
            last = f"res{block}"
    yield pool("pool5", last, "global_pooling: true pool: AVE")
    yield fc(f"fc{classes}", "pool5", classes)
    yield softmax(f"fc{classes}")


def squeezenet(size: int = 227, classes: int = 1000, shrink: int = 1) -> str:
    """SqueezeNet v1.1 with its authors' layer names."""

    def fire(number: int, bottom: str, squeeze: int, expand: int) -> Iterator[str]:
        stem = f"fire{number}"
        inner = f"{stem}/squeeze1x1"
        yield conv(inner, bottom, squeeze // shrink, "kernel_size: 1")
        yield relu(f"{stem}/relu_squeeze1x1", inner)
        for kernel, text in (
            ("1x1", "kernel_size: 1"),
            ("3x3", "kernel_size: 3 pad: 1"),
        ):
            name = f"{stem}/expand{kernel}"
            yield conv(name, inner, expand // shrink, text)
            yield relu(f"{stem}/relu_expand{kernel}", name)
        yield layer(f"{stem}/concat", "Concat", f"{stem}/expand1x1 {stem}/expand3x3")

    def net() -> Iterator[str]:
        yield 'name: "SqueezeNet_v1.1"'
        yield data(size)
        yield conv("conv1", "data", 64 // shrink, "kernel_size: 3 stride: 2")
        yield relu("relu_conv1", "conv1")
        yield pool("pool1", "conv1", "kernel_size: 3 stride: 2")
        last = "pool1"
        widths = ((16, 64), (16, 64), (32, 128), (32, 128))
        widths += ((48, 192), (48, 192), (64, 256), (64, 256))
        for number, (squeeze, expand) in enumerate(widths, 2):
            yield from fire(number, last, squeeze, expand)
            last = f"fire{number}/concat"
            if number in (3, 5):
                yield pool(f"pool{number}", last, "kernel_size: 3 stride: 2")
                last = f"pool{number}"
        yield layer("drop9", "Dropout", last, last)
        yield conv("conv10", last, classes, "kernel_size: 1")
        yield relu("relu_conv10", "conv10")
        yield pool("pool10", "conv10", "pool: AVE global_pooling: true")
        yield softmax("pool10")

    return "\n".join(net())


def vgg(depth: int, width: int = 64, size: int = 224, dense: int = 4096) -> str:
    """VGG-16 or VGG-19."""
    counts = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]

    def net() -> Iterator[str]:
        yield f'name: "VGG_ILSVRC_{depth}_layers"'
        yield data(size)
        last = "data"
        for stage, count in enumerate(counts, 1):
            for i in range(1, count + 1):
                out = width << min(stage - 1, 3)
                name = f"conv{stage}_{i}"
                yield conv(name, last, out, "kernel_size: 3 pad: 1")
                yield relu(f"relu{stage}_{i}", name)
                last = name
            yield pool(f"pool{stage}", last, "pool: MAX kernel_size: 2 stride: 2")
            last = f"pool{stage}"
        for name in ("fc6", "fc7"):
            yield fc(name, last, dense)
            yield relu(name.replace("fc", "relu"), name)
            yield layer(name.replace("fc", "drop"), "Dropout", name, name)
            last = name
        yield fc("fc8", last, 1000)
        yield softmax("fc8")

    return "\n".join(net())


def caffenet(shrink: int = 1) -> str:
    """BVLC's CaffeNet: AlexNet with each pooling before its normalisation."""
    convs = {
        1: (96, "kernel_size: 11 stride: 4"),
        2: (256, "pad: 2 kernel_size: 5 group: 2"),
        3: (384, "pad: 1 kernel_size: 3"),
        4: (384, "pad: 1 kernel_size: 3 group: 2"),
        5: (256, "pad: 1 kernel_size: 3 group: 2"),
    }

    def net() -> Iterator[str]:
        yield 'name: "CaffeNet"'
        yield data(227)
        last = "data"
        for i, (out, text) in convs.items():
            yield conv(f"conv{i}", last, out // shrink, text)
            yield relu(f"relu{i}", f"conv{i}")
            last = f"conv{i}"
            if i in (1, 2, 5):
                yield pool(f"pool{i}", last, "pool: MAX kernel_size: 3 stride: 2")
                last = f"pool{i}"
            if i in (1, 2):
                param = "local_size: 5 alpha: 0.0001 beta: 0.75"
                yield layer(f"norm{i}", "LRN", last, lrn_param=param)
                last = f"norm{i}"
        for name in ("fc6", "fc7"):
            yield fc(name, last, 4096 // shrink)
            yield relu(name.replace("fc", "relu"), name)
            yield layer(name.replace("fc", "drop"), "Dropout", name, name)
            last = name
        yield fc("fc8", last, 1000)
        yield softmax("fc8")

    return "\n".join(net())
