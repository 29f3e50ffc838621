"""Layers of one's own, and methods in place of unknown layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.ir.registry import LAYERS
from caffe2flax.runner import instantiate
from tests.golden import FIXTURES
from tests.single import check, normal, single, weights_file

MINE = FIXTURES.parent / "examples" / "plugin_layer.py"
TEXT = "squashed_sum_param { slope: 0.5 offset: 2 }"


pytestmark = pytest.mark.usefixtures("own_layers")


def test_a_layer_of_ones_own() -> None:
    x = normal(2, 3, 4, 5)
    net = single("SquashedSum", TEXT, x.shape)
    expected = np.tanh(0.5 * x) + 2
    found = check(net, {"x0": x}, {"out": expected}, plugins=[MINE])
    assert "def squashed_sum(" in found.source
    assert "caffe2flax." not in found.source.split('"""', 2)[2]
    again = caffe2flax.convert(net, plugins=[MINE, MINE], taps="all")
    assert again.source == found.source


def test_its_parameters_are_read_like_ours() -> None:
    for text, message in (
        ("", "needs slope"),
        ("squashed_sum_param { slope: 0 }", "squashes everything"),
        ("squashed_sum_param { slope: 1 ofset: 2 }", "did you mean offset"),
    ):
        with pytest.raises(caffe2flax.ConversionError, match=message):
            caffe2flax.convert(single("SquashedSum", text, (1, 2)), plugins=[MINE])


def test_without_the_plugin_the_type_is_unknown() -> None:
    with pytest.raises(caffe2flax.ConversionError, match="SquashedSum is not supp"):
        caffe2flax.convert(single("SquashedSum", TEXT, (1, 2)))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(single("SquashedSum", TEXT, (1, 2)))
    given = ["--plugin", str(MINE)]
    assert main(["convert", str(net), "-o", str(tmp_path), *given, "--name=Net"]) == 0
    code = (
        "import jax.numpy as jnp; from net import Net; "
        "print(Net()(jnp.zeros((1, 2)))[0, 0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "2.0", done.stderr
    capsys.readouterr()
    assert main(["convert", str(net), "--plugin", str(tmp_path / "no.py")]) == 1
    assert "no.py: error: the plug-in cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nraise KeyError('k')\n", "plug-in fails: KeyError"),
        ("def f(:\n", "plug-in fails: SyntaxError"),
        (
            "import caffe2flax\nfrom caffe2flax.ir.layer import Elementwise\n"
            "@caffe2flax.layer('New')\nclass New(Elementwise): ...\n"
            "@caffe2flax.layer('ReLU')\nclass ReLU(Elementwise): ...\n",
            "layer type ReLU is registered twice",
        ),
    ],
)
def test_a_plugin_that_fails(tmp_path: Path, source: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source)
    before = dict(LAYERS)
    with pytest.raises(caffe2flax.ConversionError, match=message) as failed:
        caffe2flax.convert(single("ReLU", "", (1, 2)), plugins=[file])
    assert failed.value.problems[0].span is not None
    assert before == LAYERS


def test_a_plugin_that_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    net = single("SquashedSum", TEXT, (1, 2))
    file.write_text(MINE.read_text())
    assert "jnp.tanh(" in caffe2flax.convert(net, plugins=[file]).source
    file.write_text(MINE.read_text().replace("jnp.tanh(", "jnp.sin("))
    assert "jnp.sin(" in caffe2flax.convert(net, plugins=[file]).source


def test_a_name_that_generated_modules_know(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.read_text().replace("squashed_sum(", "lrn("))
    with pytest.raises(caffe2flax.ConversionError, match="know another lrn"):
        caffe2flax.convert(single("SquashedSum", TEXT, (1, 2)), plugins=[file])


def test_entry_points(tmp_path: Path) -> None:
    """Of a package on the path, in a process of its own."""
    (tmp_path / "mylayers.py").write_text(MINE.read_text())
    info = tmp_path / "mylayers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mylayers\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text("[caffe2flax.layers]\nmine = mylayers\n")
    net = tmp_path / "net.prototxt"
    net.write_text(single("SquashedSum", TEXT, (1, 2)))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import caffe2flax; "
        f"print(caffe2flax.convert({str(net)!r}).source)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "squashed_sum(x0, 0.5, 2.0)" in done.stdout, done.stderr


UNKNOWN = single(
    "Whirl",
    'whirl_param { turns: 3 way: "left\\"" inner { a: 1 } } param { lr_mult: 2 }',
    (2, 3, 4, 5),
) + (
    'layer { name: "relu" type: "ReLU" bottom: "out" top: "out" }\n'
    'layer { name: "l2" type: "Whirl" bottom: "out" bottom: "out" top: "a" top: "b" }'
)


def test_unknown_types_as_methods() -> None:
    with pytest.raises(caffe2flax.ConversionError, match=r"Whirl is not supported \(2"):
        caffe2flax.convert(UNKNOWN)
    shapes = {"b": (2, 7)}
    found = caffe2flax.convert(UNKNOWN, stub_unsupported=True, input_shapes=shapes)
    assert "turns: 3" in found.source
    assert "(2, 3, 4, 5) ->" in found.source
    notes = "\n".join(found.notes)
    assert "the module's method for 'l' is to be filled in" in notes
    assert found.graph.shapes[found.graph.outputs[1]] == (2, 7)
    model = instantiate(found)
    with pytest.raises(NotImplementedError, match="fill in the Whirl 'l'"):
        model(jnp.zeros((2, 3, 4, 5)))


def test_a_filled_in_method_works() -> None:
    found = caffe2flax.convert(
        UNKNOWN, stub_unsupported=True, input_shapes={"b": (2, 7)}
    )
    filled = found.source.replace(
        "raise NotImplementedError(\"fill in the Whirl 'l'\")", "return -x0"
    ).replace(
        "raise NotImplementedError(\"fill in the Whirl 'l2'\")",
        "return x0 + x1, x1[:, :, 0, 0]",
    )
    module: dict[str, object] = {}
    exec(compile(filled, "net.py", "exec"), module)
    x = normal(2, 3, 4, 5)
    outputs = module["Net"]()(jnp.asarray(x))  # type: ignore[operator]
    np.testing.assert_allclose(outputs["a"], 2 * np.maximum(-x, 0), rtol=1e-6)


def test_weights_of_unknown_types_are_named(tmp_path: Path) -> None:
    net = single("Whirl", "", (2, 3))
    file = weights_file(tmp_path / "net.caffemodel", {"l": [normal(3)]})
    found = caffe2flax.convert(net, file, stub_unsupported=True)
    assert any("are left out: l" in note for note in found.notes)


def test_a_stub_without_bottoms_needs_shapes() -> None:
    net = 'layer { name: "s" type: "Spring" top: "out" }'
    with pytest.raises(caffe2flax.ConversionError, match="--input-shape out=N"):
        caffe2flax.convert(net, stub_unsupported=True)
    shapes = {"out": (1, 2)}
    found = caffe2flax.convert(net, stub_unsupported=True, input_shapes=shapes)
    assert "def s(self) -> Array:" in found.source
