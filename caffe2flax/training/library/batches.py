"""From single records to batches, with grain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags


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


def merge(*datasets: Any) -> Any:
    """The batches of several datasets, each blob from one of them."""
    pairs = grain.experimental.ZipMapDataset(datasets)
    return pairs.map(lambda parts: {k: v for part in parts for k, v in part.items()})


def join(dataset: Any, names: tuple[str, ...]) -> Any:
    """Batches in which the rows of items of several rows follow one another."""

    def joined(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {k: np.concatenate(v) if k in names else v for k, v in batch.items()}

    return dataset.map(joined)
