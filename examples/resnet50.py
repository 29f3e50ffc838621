"""ResNet50, converted from resnet50.prototxt by caffe2flax 0.1.0.

Blobs are channels last: N, H, W, C where Caffe has N, C, H, W.
"""

from functools import partial
from pathlib import Path
from typing import Any, Self

from flax import nnx
from flax.typing import Dtype, PrecisionLike
from jax import Array, lax
from safetensors.flax import load_file

CEIL = ((0, 1), (0, 1))  # Caffe rounds pooled sizes up


class ProjectionBottleneck(nnx.Module):
    """res2a, 3a, 4a, 5a."""

    def __init__(
        self,
        features_in: int,
        *,
        branch1: int,
        branch2a: int,
        strides: int = 1,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(
            nnx.Conv, use_bias=False, dtype=dtype, precision=precision, rngs=rngs
        )
        batch_norm = partial(nnx.BatchNorm, momentum=0.999, dtype=dtype, rngs=rngs)

        self.branch1 = conv(features_in, branch1, (1, 1), strides=strides)
        self.bn_branch1 = batch_norm(branch1)
        self.branch2a = conv(features_in, branch2a, (1, 1), strides=strides)
        self.bn_branch2a = batch_norm(branch2a)
        self.branch2b = conv(branch2a, branch2a, (3, 3))
        self.bn_branch2b = batch_norm(branch2a)
        self.branch2c = conv(branch2a, branch1, (1, 1))
        self.bn_branch2c = batch_norm(branch1)

    def __call__(self, x: Array) -> Array:
        branch1 = self.bn_branch1(self.branch1(x))
        branch2a = nnx.relu(self.bn_branch2a(self.branch2a(x)))
        branch2b = nnx.relu(self.bn_branch2b(self.branch2b(branch2a)))
        branch2c = self.bn_branch2c(self.branch2c(branch2b))
        return nnx.relu(branch1 + branch2c)


class Bottleneck(nnx.Module):
    """res2b, 2c, 3b, 3c, 3d, 4b, 4c, 4d, 4e, 4f, 5b, 5c."""

    def __init__(
        self,
        *,
        branch2a: int,
        branch2c: int,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)
        batch_norm = partial(nnx.BatchNorm, momentum=0.999, dtype=dtype, rngs=rngs)

        self.branch2a = conv(branch2c, branch2a, (1, 1), use_bias=False)
        self.bn_branch2a = batch_norm(branch2a)
        self.branch2b = conv(branch2a, branch2a, (3, 3), use_bias=False)
        self.bn_branch2b = batch_norm(branch2a)
        self.branch2c = conv(branch2a, branch2c, (1, 1), use_bias=False)
        self.bn_branch2c = batch_norm(branch2c)

    def __call__(self, x: Array) -> Array:
        branch2a = nnx.relu(self.bn_branch2a(self.branch2a(x)))
        branch2b = nnx.relu(self.bn_branch2b(self.branch2b(branch2a)))
        branch2c = self.bn_branch2c(self.branch2c(branch2b))
        return nnx.relu(x + branch2c)


class ResNet50(nnx.Module):
    """data (N, 224, 224, 3) -> prob (N, 1000)."""

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        dtype: Dtype = None,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(nnx.Conv, dtype=dtype, precision=precision, rngs=rngs)
        projection = partial(
            ProjectionBottleneck, dtype=dtype, precision=precision, rngs=rngs
        )
        bottleneck = partial(Bottleneck, dtype=dtype, precision=precision, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, precision=precision, rngs=rngs)

        self.conv1 = conv(3, 64, (7, 7), strides=2, padding=3)
        self.bn_conv1 = nnx.BatchNorm(64, momentum=0.999, dtype=dtype, rngs=rngs)
        self.res2a = projection(64, branch1=256, branch2a=64)
        self.res2b = bottleneck(branch2a=64, branch2c=256)
        self.res2c = bottleneck(branch2a=64, branch2c=256)
        self.res3a = projection(256, branch1=512, branch2a=128, strides=2)
        self.res3b = bottleneck(branch2a=128, branch2c=512)
        self.res3c = bottleneck(branch2a=128, branch2c=512)
        self.res3d = bottleneck(branch2a=128, branch2c=512)
        self.res4a = projection(512, branch1=1024, branch2a=256, strides=2)
        self.res4b = bottleneck(branch2a=256, branch2c=1024)
        self.res4c = bottleneck(branch2a=256, branch2c=1024)
        self.res4d = bottleneck(branch2a=256, branch2c=1024)
        self.res4e = bottleneck(branch2a=256, branch2c=1024)
        self.res4f = bottleneck(branch2a=256, branch2c=1024)
        self.res5a = projection(1024, branch1=2048, branch2a=512, strides=2)
        self.res5b = bottleneck(branch2a=512, branch2c=2048)
        self.res5c = bottleneck(branch2a=512, branch2c=2048)
        self.fc1000 = linear(2048, num_classes)

    def __call__(self, data: Array) -> Array:
        return nnx.softmax(self.logits(data))

    def logits(self, data: Array) -> Array:
        """What enters the last Softmax."""
        check_shape("data", data, "N", 224, 224, 3)
        conv1 = nnx.relu(self.bn_conv1(self.conv1(data)))  # (N, 112, 112, 64)
        pool1 = nnx.max_pool(conv1, (3, 3), (2, 2), CEIL)  # (N, 56, 56, 64)

        res2a = self.res2a(pool1)  # (N, 56, 56, 256)
        res2b = self.res2b(res2a)
        res2c = self.res2c(res2b)
        res3a = self.res3a(res2c)  # (N, 28, 28, 512)
        res3b = self.res3b(res3a)
        res3c = self.res3c(res3b)
        res3d = self.res3d(res3c)
        res4a = self.res4a(res3d)  # (N, 14, 14, 1024)
        res4b = self.res4b(res4a)
        res4c = self.res4c(res4b)
        res4d = self.res4d(res4c)
        res4e = self.res4e(res4d)
        res4f = self.res4f(res4e)
        res5a = self.res5a(res4f)  # (N, 7, 7, 2048)
        res5b = self.res5b(res5a)
        res5c = self.res5c(res5b)
        pool5 = nnx.avg_pool(res5c, (7, 7))  # (N, 1, 1, 2048)
        return self.fc1000(lax.collapse(pool5, 1))  # (N, 1000)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **options: Any) -> Self:
        """In eval mode; with another `num_classes`, `fc1000` starts fresh."""
        model = nnx.eval_shape(lambda: cls(**options, rngs=nnx.Rngs(0)))
        fresh = ("fc1000",) if "num_classes" in options else ()
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
