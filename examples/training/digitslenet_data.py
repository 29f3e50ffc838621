"""Batches for digitslenet_train.py."""

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import grain
import jax
import lmdb
import numpy as np
from absl import flags

HERE = os.path.dirname(os.path.realpath(__file__))


def train_batches(
    source: str = HERE + "/../../fixtures/digits_training/digits_train.lmdb",
    *,
    seed: int = 0,
    shuffle: bool = False,
    workers: int = 0,
) -> Any:
    """Batches of 64: records of LMDB."""

    def prepare(record: Any, rng: np.random.Generator) -> dict[str, Any]:
        image, label = record
        return {
            "data": transform(image, rng, scale=0.0039215684),
            "label": np.float32(label),
        }

    return read_ahead(
        batches(Lmdb(source), prepare, 64, seed=seed, shuffle=shuffle), workers=workers
    )


def test_batches(
    source: str = HERE + "/../../fixtures/digits_training/digits_test.lmdb",
    *,
    seed: int = 0,
    shuffle: bool = False,
    workers: int = 0,
) -> Any:
    """Batches of 40: records of LMDB."""

    def prepare(record: Any, rng: np.random.Generator) -> dict[str, Any]:
        image, label = record
        return {
            "data": transform(image, rng, scale=0.0039215684),
            "label": np.float32(label),
        }

    return read_ahead(
        batches(Lmdb(source), prepare, 40, seed=seed, shuffle=shuffle), workers=workers
    )


def batches(
    source: Any,
    prepare: Callable[[Any, np.random.Generator], Mapping[str, Any]],
    size: int,
    *,
    seed: int = 0,
    shuffle: bool = False,
    share: tuple[int, int] | None = None,
) -> Any:
    """A grain dataset of batches, without an end: the record behind the last is the
    first, in the midst of a batch too, as in Caffe.

    prepare: a record and a random generator -> arrays by blob. share: (index, count) of
    this process, which gets its part of each batch: items that follow one another, so
    that all parts together are the batch of one process. By default as JAX has it.
    """
    index, count = share or (jax.process_index(), jax.process_count())
    if size % count:
        raise ValueError(f"a batch of {size} cannot be shared by {count} processes")
    if not len(source):
        raise ValueError("there is no data")
    dataset = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    dataset = dataset.repeat().random_map(prepare)
    if size == count:  # of so many batches grain cannot tell the number
        return dataset[index::count].map(lambda item: stack([item]))
    return dataset.batch(size // count, batch_fn=stack)[index::count]


def stack(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of items: float32, by blob."""
    batch = {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(map(str, dict.fromkeys(array.shape for array in arrays)))
            raise ValueError(f"{name}: {shapes} in one batch: crop or resize them")
        batch[name] = np.stack(arrays)
    return batch


def read_ahead(dataset: Any, threads: int = 4, workers: int = 0) -> Any:
    """The batches in order, prepared in threads, or in worker processes, before they
    are asked for. The state of its iterator is the place in the data."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = dataset.to_iter_dataset(options)
    if workers:
        flags.FLAGS.mark_as_parsed()  # grain's, which it reads for its processes
        processes = grain.multiprocessing.MultiprocessingOptions(workers)
        dataset = dataset.mp_prefetch(processes)
    return dataset


def wire_number(message: bytes, at: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    number = 0
    for i, byte in enumerate(message[at : at + 10]):
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, at + i + 1
    raise ValueError(f"no number at byte {at}")


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of protobuf: (number, int or bytes)."""
    at = 0
    while at < len(message):
        tag, at = wire_number(message, at)
        if tag & 7 == 0:
            value, at = wire_number(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7, -1)
        if tag & 7 == 2:
            size, at = wire_number(message, at)
        if not 0 <= size <= len(message) - at:
            raise ValueError(f"no field at byte {at}")
        yield tag >> 3, message[at : at + size]
        at += size


def read_datum(record: bytes, color: bool | None = None) -> tuple[Any, int]:
    """The image of a Datum (height, width, channels), and its label. `color`: an
    encoded one becomes B, G, R (True) or gray (False), None leaves it as it is."""
    numbers, data, floats = dict.fromkeys((1, 2, 3, 5, 7), 0), b"", b""
    for field, value in wire_fields(record):
        if field == 4 and isinstance(value, bytes):
            data = value
        elif field == 6 and isinstance(value, bytes):
            floats += value
        elif field in numbers and isinstance(value, int):
            numbers[field] = value
    *shape, label, encoded = numbers.values()
    label = (label + 2**31) % 2**32 - 2**31
    if encoded:
        return decode(data, color), label
    values = np.frombuffer(data, np.uint8) if data else np.frombuffer(floats, "<f4")
    if not values.size or values.size != math.prod(shape):
        raise ValueError(f"{values.size} values for {shape} channels, rows and columns")
    return values.reshape(shape).transpose(1, 2, 0), label


def decode(data: bytes, color: bool | None = None) -> Any:
    """The pixels of an image file (height, width, channels), as OpenCV reads them:
    colours as B, G, R. `color`: gray becomes colour (True) or colour gray (False)."""
    from PIL import Image, ImageOps

    formats = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG2000")
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats)
    decoder = image.format
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of more than 8 bits ({image.mode})")
    if color is False:
        image.draft("L", image.size)  # a JPEG has its gray in it
    if color is None:
        alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA")
        mode = "RGBA" if alpha else "L" if image.mode in ("1", "L") else "RGB"
    else:
        image = ImageOps.exif_transpose(image)
        mode = "L" if not color and image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image.convert(mode))
    if mode == "L":
        return pixels[..., None]
    if color is False:
        sums = pixels @ np.array([4899, 9617, 1868]) + 2**13 >> 14
        if decoder == "PNG":  # libpng rounds down
            sums = pixels @ np.array([9797, 19234, 3737]) >> 15
        return sums[..., None].astype(np.uint8)
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def transform(
    image: Any,
    rng: np.random.Generator,
    *,
    crop: int = 0,
    middle: bool = False,
    mean: Any = None,
    mirror: bool = False,
    scale: float = 1.0,
) -> Any:
    """Caffe's transform_param, in its order: crop, minus mean, mirror, times scale.

    The crop is at random, or from the `middle`. mean: (channels,), or (height, width,
    channels) of the whole image. Returns float32 (height, width, channels).
    """
    top = left = 0
    if mean is not None and mean.shape[-1] not in (1, image.shape[2]):
        raise ValueError(f"mean of {mean.shape[-1]} channels, image {image.shape}")
    if mean is not None and mean.ndim == 3 and mean.shape != image.shape:
        raise ValueError(f"mean of shape {mean.shape}, image {image.shape}")
    if crop:
        spare = [extent - crop for extent in image.shape[:2]]
        if min(spare) < 0:
            raise ValueError(f"crop of {crop} x {crop}, image {image.shape}")
        top, left = (n // 2 if middle else int(rng.integers(n + 1)) for n in spare)
        image = image[top : top + crop, left : left + crop]
    x = image.astype(np.float32)
    if mean is not None and mean.ndim == 3:
        mean = mean[top : top + x.shape[0], left : left + x.shape[1]]
    if mean is not None:
        x -= mean
    if mirror and rng.integers(2):
        x = x[:, ::-1]
    return x * np.float32(scale)


class Lmdb:
    """The records of Caffe's LMDB in the order of their keys: (image, label)."""

    opened: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()

    def __init__(self, path: str, color: bool | None = None):
        self.path, self.color = os.path.realpath(path), color
        folder = os.path.isdir(self.path)
        self.environment: Any = self.opened.get(self.path)  # once in a process
        if self.environment is None:
            self.environment = lmdb.open(
                self.path, subdir=folder, readonly=True, lock=False, readahead=False
            )
            self.opened[self.path] = self.environment
        pages = self.environment.info()["last_pgno"] + 1
        file = os.path.join(self.path, "data.mdb") if folder else self.path
        if os.path.getsize(file) < pages * self.environment.stat()["psize"]:
            raise ValueError(f"{path}: the file is cut off")
        with self.environment.begin() as records:
            self.keys = list(records.cursor().iternext(values=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return Lmdb, (self.path, self.color)  # worker processes open it themselves

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        try:
            with self.environment.begin() as records:
                return read_datum(records.get(self.keys[i]), self.color)
        except Exception as error:
            raise ValueError(f"{self.path}: record {i}: {error}") from error
