"""What a file names is neither opened nor imported, nor run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "named_by_the_net"
WATCHER = f"""
import sys

EVENTS = {{"open", "os.listdir", "os.scandir", "import", "subprocess.Popen"}}
EVENTS |= {{"os.system", "os.exec", "os.posix_spawn"}}

def watch(event, args):
    if event in EVENTS and any({NAME!r} in str(arg) for arg in args):
        print("saw", event, args[:1])

sys.path.insert(0, sys.argv.pop(1))
sys.addaudithook(watch)
from caffe2flax.cli.main import main
print("status", main(sys.argv[1:]))
"""
NET = f"""
name: "net"
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  transform_param {{ mean_file: "{NAME}" crop_size: 4 }}
  image_data_param {{ source: "{NAME}" root_folder: "{NAME}" batch_size: 1 }} }}
layer {{ name: "lmdb" type: "Data" top: "d" top: "l"
  transform_param {{ mean_file: "{NAME}" crop_size: 4 }}
  data_param {{ source: "{NAME}" batch_size: 1 }} }}
layer {{ name: "h5" type: "HDF5Data" top: "h"
  hdf5_data_param {{ source: "{NAME}" batch_size: 1 }} }}
layer {{ name: "windows" type: "WindowData" top: "w" top: "k"
  transform_param {{ crop_size: 4 }}
  window_data_param {{ source: "{NAME}" root_folder: "{NAME}" batch_size: 1 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "all" type: "Silence" bottom: "d" bottom: "h" bottom: "w" }}
layer {{ name: "gain" type: "InfogainLoss" bottom: "ip" bottom: "label" top: "gain"
  infogain_loss_param {{ source: "{NAME}" }} }}
layer {{ name: "out" type: "HDF5Output" bottom: "ip" bottom: "label"
  hdf5_output_param {{ file_name: "{NAME}" }} }}
"""
PYTHON = f"""
layer {{ name: "py" type: "Python" bottom: "ip" top: "py"
  python_param {{ module: "{NAME}" layer: "Layer" param_str: "{NAME}" }} }}
"""
UNKNOWN = f"""
layer {{ name: "odd" type: "Odd" bottom: "ip" top: "odd"
  odd_param {{ file: "{NAME}" }} }}
"""
SOLVER = f"""
net: "{NAME}" snapshot_prefix: "{NAME}" base_lr: 0.1 lr_policy: "fixed"
solver_mode: CPU
"""
SHAPES = ["--input-shape", "h=1,3"]
COMMANDS = {
    "convert": (NET, ["convert", *SHAPES, "-o", "made"]),
    "convert for training": (
        NET,
        ["convert", *SHAPES, "--phase", "TRAIN", "-o", "made"],
    ),
    "convert Python layers": (NET + PYTHON, ["convert", *SHAPES, "-o", "made"]),
    "convert with stubs": (
        NET + UNKNOWN,
        ["convert", *SHAPES, "--stub-unsupported", "-o", "made"],
    ),
    "convert a solver": (SOLVER, ["convert", "-o", "made"]),
    "inspect": (NET, ["inspect", *SHAPES]),
    "upgrade": (NET, ["upgrade", "-o", "made.prototxt"]),
    "upgrade a solver": (SOLVER, ["upgrade", "-o", "made.prototxt"]),
    "verify": (NET, ["verify", *SHAPES]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_a_file_names_is_left_alone(case: str, tmp_path: Path) -> None:
    """Nothing of that name is opened, listed, imported or run."""
    text, (command, *options) = COMMANDS[case]
    (tmp_path / NAME).write_text(NAME)
    (tmp_path / f"{NAME}.py").write_text("open('ran', 'w')")
    (tmp_path / "net.prototxt").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, ROOT, command, "net.prototxt", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = case in ("convert Python layers", "convert a solver")
    lines = done.stdout.splitlines()
    assert lines[-1:] == [f"status {int(refused)}"], done.stderr
    assert not [line for line in lines if line.startswith("saw ")]
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / NAME).read_text() == NAME
