"""GoogLeNet, converted from googlenet.prototxt by caffe2flax 0.1.0.

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

CEIL = ((0, 1), (0, 1))  # Caffe rounds pooled sizes up


class Inception(nnx.Module):
    """inception_3a, 3b, 4a, 4b, 4c, 4d, 4e, 5a, 5b."""

    def __init__(
        self,
        features_in: int,
        conv_1x1: int,
        conv_3x3_reduce: int,
        conv_3x3: int,
        conv_5x5_reduce: int,
        conv_5x5: int,
        pool_proj: int,
        *,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)

        self.conv_1x1 = conv(features_in, conv_1x1, (1, 1))
        self.conv_3x3_reduce = conv(features_in, conv_3x3_reduce, (1, 1))
        self.conv_3x3 = conv(conv_3x3_reduce, conv_3x3, (3, 3))
        self.conv_5x5_reduce = conv(features_in, conv_5x5_reduce, (1, 1))
        self.conv_5x5 = conv(conv_5x5_reduce, conv_5x5, (5, 5))
        self.pool_proj = conv(features_in, pool_proj, (1, 1))

    def __call__(self, x: Array) -> Array:
        conv_1x1 = nnx.relu(self.conv_1x1(x))
        conv_3x3_reduce = nnx.relu(self.conv_3x3_reduce(x))
        conv_3x3 = nnx.relu(self.conv_3x3(conv_3x3_reduce))
        conv_5x5_reduce = nnx.relu(self.conv_5x5_reduce(x))
        conv_5x5 = nnx.relu(self.conv_5x5(conv_5x5_reduce))
        pool = nnx.max_pool(x, (3, 3), padding="SAME")
        pool_proj = nnx.relu(self.pool_proj(pool))
        return jnp.concatenate([conv_1x1, conv_3x3, conv_5x5, pool_proj], axis=-1)


class GoogLeNet(nnx.Module):
    """data (N, 224, 224, 3) -> prob (N, 1000)."""

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        dropout: float = 0.4,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)
        inception = partial(Inception, dtype=dtype, precision=precision, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, precision=precision, rngs=rngs)

        self.conv1_7x7_s2 = conv(3, 64, (7, 7), strides=2, padding=3)
        self.conv2_3x3_reduce = conv(64, 64, (1, 1))
        self.conv2_3x3 = conv(64, 192, (3, 3))
        self.inception_3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception_3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.inception_4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception_4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception_4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception_4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception_4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.inception_5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception_5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.pool5_drop_7x7_s1 = nnx.Dropout(dropout)
        self.loss3_classifier = linear(1024, num_classes)

    def __call__(self, data: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        return nnx.softmax(self.logits(data, rngs=rngs))

    def logits(self, data: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        """What enters the last Softmax."""
        check_shape("data", data, "N", 224, 224, 3)
        conv1_7x7_s2 = nnx.relu(self.conv1_7x7_s2(data))  # (N, 112, 112, 64)
        # (N, 56, 56, 64)
        pool1_3x3_s2 = nnx.max_pool(conv1_7x7_s2, (3, 3), (2, 2), CEIL)
        pool1_norm1 = lrn(pool1_3x3_s2, size=5, alpha=0.0001, beta=0.75)

        conv2_3x3_reduce = nnx.relu(self.conv2_3x3_reduce(pool1_norm1))
        conv2_3x3 = nnx.relu(self.conv2_3x3(conv2_3x3_reduce))  # (N, 56, 56, 192)
        conv2_norm2 = lrn(conv2_3x3, size=5, alpha=0.0001, beta=0.75)
        # (N, 28, 28, 192)
        pool2_3x3_s2 = nnx.max_pool(conv2_norm2, (3, 3), (2, 2), CEIL)

        inception_3a_output = self.inception_3a(pool2_3x3_s2)  # (N, 28, 28, 256)
        inception_3b_output = self.inception_3b(inception_3a_output)  # (N, 28, 28, 480)
        # (N, 14, 14, 480)
        pool3_3x3_s2 = nnx.max_pool(inception_3b_output, (3, 3), (2, 2), CEIL)

        inception_4a_output = self.inception_4a(pool3_3x3_s2)  # (N, 14, 14, 512)
        inception_4b_output = self.inception_4b(inception_4a_output)
        inception_4c_output = self.inception_4c(inception_4b_output)
        inception_4d_output = self.inception_4d(inception_4c_output)  # (N, 14, 14, 528)
        inception_4e_output = self.inception_4e(inception_4d_output)  # (N, 14, 14, 832)
        # (N, 7, 7, 832)
        pool4_3x3_s2 = nnx.max_pool(inception_4e_output, (3, 3), (2, 2), CEIL)

        inception_5a_output = self.inception_5a(pool4_3x3_s2)
        inception_5b_output = self.inception_5b(inception_5a_output)  # (N, 7, 7, 1024)

        # (N, 1, 1, 1024)
        pool5_7x7_s1 = self.pool5_drop_7x7_s1(
            nnx.avg_pool(inception_5b_output, (7, 7)), rngs=rngs
        )
        return self.loss3_classifier(lax.collapse(pool5_7x7_s1, 1))  # (N, 1000)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **options: Any) -> Self:
        """In eval mode; with another `num_classes`, `loss3_classifier` starts fresh."""
        model = nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))
        fresh = ("loss3_classifier",) if "num_classes" in options else ()
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
