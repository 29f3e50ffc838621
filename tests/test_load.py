"""Many conversions, at once and one after the other."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import caffe2flax

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "fixtures" / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
NETWORKS = [ROOT / "fixtures" / "networks" / f"{n}.prototxt" for n in ("lenet", "nin")]

GROWTH = """
import sys
import caffe2flax
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
for i in range(200):
    made = caffe2flax.convert(*sys.argv[1:3])
    made.write(sys.argv[3], force=True)
    if i == 20:
        before = resident()
after = resident()
print(before, after, after / before)
"""


def test_threads_convert_what_one_would(tmp_path: Path) -> None:
    files: list[tuple[Path, Path | None]] = [(NET, WEIGHTS)]
    files += [(path, None) for path in NETWORKS]
    alone = [caffe2flax.convert(*each) for each in files]
    with ThreadPoolExecutor(2) as pool:
        jobs = [(i, pool.submit(caffe2flax.convert, *files[i])) for i in [0, 1, 2] * 2]
        for i, job in jobs:
            found = job.result()
            assert found.source == alone[i].source
            assert found.notes == alone[i].notes
            for name in alone[i].weights or ():
                assert found.weights is not None
                np.testing.assert_array_equal(
                    found.weights[name], (alone[i].weights or {})[name]
                )


def test_memory_does_not_grow(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", GROWTH, str(NET), str(WEIGHTS), str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    *_, growth = done.stdout.split()
    assert float(growth) <= 1.05, done.stdout
    assert len(list(tmp_path.iterdir())) == 2
