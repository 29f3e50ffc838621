"""The rate of the input pipeline: batches of a data layer that reads an LMDB."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np

import caffe2flax
from caffe2flax.training.library.snapshots import proto_field
from speed.networks import WORK

RECORDS = 256
"""Enough for a batch of each; more are read again."""
ENOUGH = 2.0
"""Seconds of each measurement."""

SOURCES = {
    # channels, side, transformation
    "lenet": (1, 28, "scale: 0.00390625"),
    "caffenet": (3, 256, "crop_size: 227 mirror: true mean_value: 117"),
    "resnet50": (3, 256, "crop_size: 224 mirror: true mean_value: 117"),
}
FORMS = ("raw", "jpeg")
"""How the records hold their images; gray ones are raw."""


def rate(name: str, batch: int, form: str) -> float:
    """Images a second in batches of `batch`, prepared by four threads."""
    channels, side, transformation = SOURCES[name]
    source = WORK / f"{name}_{form}_lmdb"
    if not (source / "data.mdb").exists():
        _write(source, channels, side, form)
    net = f"""
        layer {{ name: "data" type: "Data" top: "data" top: "label"
          transform_param {{ {transformation} }}
          data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} }}
    """
    batches = iter(caffe2flax.data(net, "TRAIN", share=(0, 1)))
    for _ in range(4):  # those that were read ahead while nobody asked
        next(batches)
    count, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < ENOUGH:
        next(batches)
        count += batch
    return count / passed


def _write(path: Path, channels: int, side: int, form: str) -> None:
    """An LMDB of images like photographs: smooth, with noise."""
    import lmdb
    from PIL import Image

    draw = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=2**30) as env, env.begin(write=True) as out:
        for i in range(RECORDS):
            small = draw.integers(0, 256, (8, 8, channels), np.uint8)
            image = small.repeat(side // 8 + 1, 0).repeat(side // 8 + 1, 1)
            image = image[:side, :side] // 2 + draw.integers(0, 64, (side, side, 1))
            pixels = image.astype(np.uint8)
            if form == "jpeg":
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "JPEG", quality=90)
                fields = [proto_field(4, stream.getvalue()), proto_field(7, 1)]
            else:
                sizes = zip((1, 2, 3), (channels, side, side), strict=True)
                data = pixels.transpose(2, 0, 1).tobytes()
                fields = [*(proto_field(n, size) for n, size in sizes)]
                fields.append(proto_field(4, data))
            record = b"".join([*fields, proto_field(5, i % 10)])
            out.put(f"{i:08}".encode(), record)
