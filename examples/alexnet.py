"""AlexNet, converted from alexnet.prototxt by caffe2flax 0.1.0.

Blobs are channels last: N, H, W, C where Caffe has N, C, H, W.
"""

from functools import partial
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, PrecisionLike
from jax import Array, lax
from safetensors.flax import load_file


class AlexNet(nnx.Module):
    """data (N, 227, 227, 3) -> prob (N, 1000)."""

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        dropout: float = 0.5,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, precision=precision, rngs=rngs)

        self.conv1 = conv(3, 96, (11, 11), strides=4, padding="VALID")
        self.conv2 = conv(96, 256, (5, 5), feature_group_count=2)
        self.conv3 = conv(256, 384, (3, 3))
        self.conv4 = conv(384, 384, (3, 3), feature_group_count=2)
        self.conv5 = conv(384, 256, (3, 3), feature_group_count=2)
        self.fc6 = linear(9216, 4096)  # rows in H, W, C order
        self.drop6 = nnx.Dropout(dropout)
        self.fc7 = linear(4096, 4096)
        self.drop7 = nnx.Dropout(dropout)
        self.fc8 = linear(4096, num_classes)

    def __call__(self, data: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        return nnx.softmax(self.logits(data, rngs=rngs))

    def logits(self, data: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        """What enters the last Softmax."""
        check_shape("data", data, "N", 227, 227, 3)
        conv1 = nnx.relu(self.conv1(data))  # (N, 55, 55, 96)
        norm1 = lrn(conv1, size=5, alpha=0.0001, beta=0.75)
        pool1 = nnx.max_pool(norm1, (3, 3), (2, 2))  # (N, 27, 27, 96)

        conv2 = nnx.relu(self.conv2(pool1))  # (N, 27, 27, 256)
        norm2 = lrn(conv2, size=5, alpha=0.0001, beta=0.75)
        pool2 = nnx.max_pool(norm2, (3, 3), (2, 2))  # (N, 13, 13, 256)

        conv3 = nnx.relu(self.conv3(pool2))  # (N, 13, 13, 384)
        conv4 = nnx.relu(self.conv4(conv3))
        conv5 = nnx.relu(self.conv5(conv4))  # (N, 13, 13, 256)
        pool5 = nnx.max_pool(conv5, (3, 3), (2, 2))  # (N, 6, 6, 256)

        # (N, 4096)
        fc6 = self.drop6(nnx.relu(self.fc6(lax.collapse(pool5, 1))), rngs=rngs)
        fc7 = self.drop7(nnx.relu(self.fc7(fc6)), rngs=rngs)
        return self.fc8(fc7)  # (N, 1000)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **options: Any) -> Self:
        """In eval mode; with another `num_classes`, `fc8` starts fresh."""
        model = nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))
        fresh = ("fc8",) if "num_classes" in options else ()
        load_weights(model, path or Path(__file__).with_suffix(".safetensors"), fresh)
        model.eval()
        return model


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


def lrn(x: Array, *, size: int, alpha: float, beta: float, k: float = 1.0) -> Array:
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels) ** beta."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))  # squares are large
    beside = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = jnp.pad(jnp.square(wide), beside)
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (wide * (k + alpha / size * near) ** -beta).astype(x.dtype)


def load_weights(model: nnx.Module, path: str | Path, fresh: Any = ()) -> None:
    """Fills `model` from a file, which must fit; layers `fresh` may start anew."""
    file = next(Path(path).glob(f"{Path(__file__).stem}.safetensors"), path)  # a folder
    weights, leaves = load_file(file), list[Any]()
    wrong = [f"{k} is {x.dtype}" for k, x in weights.items() if x.dtype.kind in "biuc"]
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        name, shape = ".".join(map(str, keys)), variable.shape
        found = getattr(array := weights.pop(name, None), "shape", "missing")
        if keys[0] in fresh and found[:-1] == shape[:-1] and found != shape:
            array = nnx.initializers.normal(0.01)(nnx.Rngs(0).params(), shape)
        elif found != shape:
            wrong.append(f"{name} is {found} in the file, not {shape}")
        leaves.append((keys, array, variable.dtype))
    if wrong := wrong + [f"{name} is unknown" for name in weights]:
        raise ValueError(f"{path} does not fit this model: {'; '.join(wrong)}")
    nnx.update(model, nnx.from_flat_state([(k, x.astype(t)) for k, x, t in leaves]))
