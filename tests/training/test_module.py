"""One class for training, tests and deployment, against the class of each phase."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from caffe2flax.conversion import Conversion, convert
from caffe2flax.errors import ConversionError
from caffe2flax.ir.graph import Graph
from caffe2flax.runner import instantiate, load_class
from caffe2flax.training.graphs import NetState
from caffe2flax.training.module import convert_training
from tests.smallnets import net, save

FOLDER = Path(__file__).parents[2] / "fixtures" / "training" / "module"
TOLERANCE = 2e-6
"""Folding a BatchNorm, which only the plain module of TEST does, rounds otherwise."""


SCORED = ("accuracy", "loss")
TRUNK = "self.trunk("


class Case(NamedTuple):
    """A net: where the file does not give the shape of the data, that of an image, and
    the batch in training and in each test; the stages of its tests, what they print,
    and the method that computes what all share."""

    name: str
    image: tuple[int, ...] = ()
    batches: tuple[int, ...] = (0, 0)
    stages: tuple[str, ...] = ("",)
    printed: tuple[str, ...] = ("loss",)
    shared: str = "self("


CASES = [
    Case(
        "log_lenet",
        (1, 28, 28),
        (16, 30, 40),
        ("seen", "unseen"),
        ("accuracy", "loss_aux", "loss"),
    ),
    Case("log_bn", (1, 28, 28), (24, 40), printed=SCORED),
    Case("stats_digits", (1, 28, 28), (64, 40), printed=SCORED),
    Case("phases", (3, 9, 9), (8, 6), printed=("extra", "accuracy"), shared=TRUNK),
    Case("trunk", (3, 6, 6), (4, 4), printed=("prob", "loss"), shared=TRUNK),
    Case("aux_heads", printed=("aux_loss", "loss")),
    Case("two_losses", printed=("loss", "l2")),
    Case("shared_tied"),
    Case("propagate_down"),
]


def shapes_of(case: Case, net: int) -> dict[str, tuple[int, ...]] | None:
    """net: 0 for training, 1 for the first test."""
    return {"data": (case.batches[net], *case.image)} if case.image else None


def training(case: Case) -> Conversion:
    path = FOLDER / f"{case.name}.prototxt"
    states = [NetState(path, stages=(s,) if s else ()) for s in case.stages]
    given = {"data": (1, *case.image)} if case.image else None
    return convert_training(NetState(path), states, filled=True, input_shapes=given)


def sample(graph: Graph) -> dict[str, np.ndarray]:
    """Random inputs, in Caffe's axis order."""
    noise = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for value in graph.arguments:
        readers = [node for node in graph.nodes if value in node.inputs]
        shapes = [[graph.shapes[v] for v in node.inputs] for node in readers]
        examples = [
            node.layer.example(node.inputs.index(value), noise, *known)
            for node, known in zip(readers, shapes, strict=True)
        ]
        known = next((x for x in examples if x is not None), None)
        drawn = noise.standard_normal(graph.shapes[value]) if known is None else known
        made[value.blob] = np.asarray(drawn, np.float32)
    return made


def call(
    method: Callable[..., Any], graph: Graph, inputs: dict[str, np.ndarray]
) -> Any:
    """The method with those inputs that it takes; dropout always draws the same."""
    names = inspect.signature(method).parameters
    given = {
        v.blob: inputs[v.blob].transpose(graph.layouts[v].axes)
        for v in graph.arguments
        if v.blob in names
    }
    random = {"rngs": nnx.Rngs(3)} if "rngs" in names else {}
    return method(**given, **random)


def by_blob(graph: Graph, result: Any) -> dict[str, Any]:
    taps = {}
    if graph.taps:
        result, taps = result
    if len(graph.outputs) == 1:
        result = {graph.outputs[0].blob: result}
    return {**result, **taps}


def assert_close(got: Any, wanted: Any) -> None:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    bound = TOLERANCE * max(1e-6, np.abs(wanted).max(initial=0))
    assert np.abs(got - wanted).max(initial=0) <= bound


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_method_equals_the_module_of_its_phase(case: Case) -> None:
    path = FOLDER / f"{case.name}.prototxt"
    made = training(case)
    assert case.shared in made.source
    model = instantiate(made)

    shapes = shapes_of(case, 0)
    plain = convert(path, phase="TRAIN", filled=True, input_shapes=shapes)
    other = instantiate(plain)
    model.train()
    other.train()
    inputs = sample(plain.graph)
    losses = call(model.losses, plain.graph, inputs)
    wanted = by_blob(plain.graph, call(other, plain.graph, inputs))
    weights = dict(pair for node in plain.graph.nodes for pair in node.weighted)
    assert set(losses) == {value.blob for value in weights}
    for blob, loss in losses.items():
        assert_close(loss, wanted[blob])
    total = sum(w * np.sum(wanted[value.blob]) for value, w in weights.items())
    assert_close(model.total_loss(losses), total)
    statistics = dict(nnx.to_flat_state(nnx.state(model, nnx.BatchStat)))
    for key, variable in nnx.to_flat_state(nnx.state(other, nnx.BatchStat)):
        assert_close(statistics[key][...], variable[...])

    model = instantiate(made)  # with the statistics that the files of weights have
    for i, stage in enumerate(case.stages):
        shapes = shapes_of(case, i + 1)
        stages = (stage,) if stage else ()
        metrics = getattr(model, f"metrics_{i}" if i else "metrics")
        deployed = convert(path, filled=True, stages=stages, input_shapes=shapes)
        graph = deployed.graph
        tapped = convert(
            path,
            filled=True,
            stages=stages,
            input_shapes=shapes,
            taps=case.printed,
        )
        given = sample(tapped.graph)
        printed = call(metrics, tapped.graph, given)
        wanted = by_blob(tapped.graph, call(instantiate(tapped), tapped.graph, given))
        assert set(printed) == set(case.printed)
        for blob, value in printed.items():
            assert_close(value, wanted[blob])
        if not i:
            plain_model = instantiate(deployed)
            jax.tree.map(
                assert_close,
                call(model, graph, given),
                call(plain_model, graph, given),
            )


def test_running_statistics_of_training_serve_tests() -> None:
    case = next(case for case in CASES if case.name == "log_bn")
    path = FOLDER / "log_bn.prototxt"
    made = training(case)
    plain = convert(path, phase="TRAIN", filled=True, input_shapes=shapes_of(case, 0))
    model, other = instantiate(made), instantiate(plain)
    inputs = sample(plain.graph)
    for each in (model, other):
        each.train()
    call(model.losses, plain.graph, inputs)
    call(other, plain.graph, inputs)
    for each in (model, other):
        each.eval()
    assert np.abs(model.bn1.mean[...]).max() > 0
    got = call(model.metrics, plain.graph, inputs)["loss"]
    assert_close(got, call(other, plain.graph, inputs))


def test_all_heads_take_num_classes_and_draw_from_their_fillers(tmp_path: Path) -> None:
    case = CASES[0]
    made = training(case)
    made.write(tmp_path)
    cls: Any = load_class(made.name, made.source)
    path = tmp_path / "log_lenet.safetensors"
    model = cls.from_pretrained(path, num_classes=20, rngs=nnx.Rngs(7))
    assert model.ip2.kernel.shape == (32, 20)
    assert model.aux.kernel.shape == (864, 20)
    drawn = cls(num_classes=20, rngs=nnx.Rngs(7))
    np.testing.assert_array_equal(model.ip2.kernel[...], drawn.ip2.kernel[...])
    kept = instantiate(made)
    np.testing.assert_array_equal(model.ip1.kernel[...], kept.ip1.kernel[...])
    data = np.zeros((3, 28, 28, 1), np.float32)
    losses = model.losses(data, np.array([0, 10, 19], np.float32))
    assert np.isfinite(model.total_loss(losses))
    same = cls.from_pretrained(path)
    np.testing.assert_array_equal(same.aux.kernel[...], kept.aux.kernel[...])


@pytest.mark.parametrize("shape", [(5,), (5, 1, 1, 1)])
def test_labels_have_the_shape_that_is_given(shape: tuple[int, ...]) -> None:
    path = FOLDER / "stats_digits.prototxt"
    given = {"data": (5, 1, 28, 28), "label": shape}
    made = convert_training(NetState(path), [NetState(path)], input_shapes=given)
    model = instantiate(made)
    data = np.zeros((5, 28, 28, 1), np.float32)
    model.eval()
    losses = model.losses(data, np.zeros(shape, np.float32))
    metrics = model.metrics(data, np.zeros(shape, np.float32))
    assert losses["loss"].shape == metrics["accuracy"].shape == ()


FC = 'name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param'
LOSS = 'name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss"'


def test_without_a_filler_training_starts_from_zeros_as_in_caffe() -> None:
    text = net(f"{FC} {{ num_output: 3 }}", LOSS, x=(4, 6), label=(4,))
    model = instantiate(convert_training(NetState(text)))
    assert not model.fc.kernel[...].any()


def test_weights_are_those_of_the_file_by_name(tmp_path: Path) -> None:
    text = net(f"{FC} {{ num_output: 3 }}", LOSS, x=(4, 6), label=(4,))
    kernel = np.arange(18, dtype=np.float32).reshape(3, 6)
    file = save(tmp_path / "w.caffemodel", {"fc": [kernel, np.ones(3, np.float32)]})
    model = instantiate(convert_training(NetState(text), weights=file))
    np.testing.assert_array_equal(model.fc.kernel[...], kernel.T)


def test_a_net_that_is_none_in_test_is_deployed_as_in_training() -> None:
    data = 'name: "d" type: "Data" top: "x" top: "label" include { phase: TRAIN }'
    data += ' data_param { source: "d" batch_size: 4 }'
    text = net(data, f"{FC} {{ num_output: 3 }}", LOSS)
    made = convert_training(NetState(text), input_shapes={"x": (4, 6)})
    model = instantiate(made)
    assert model(np.zeros((4, 6), np.float32)).shape == (4, 3)
    found = model.metrics(np.zeros((4, 6), np.float32), np.zeros(4, np.float32))
    assert set(found) == {"loss"}


BLOCK = """
layer {{ name: "b{i}/a" type: "Convolution" bottom: "{below}" top: "b{i}/a"
  convolution_param {{ num_output: 3 kernel_size: 3 pad: 1
    weight_filler {{ type: "msra" }} }} }}
layer {{ name: "b{i}/bn" type: "BatchNorm" bottom: "b{i}/a" top: "b{i}/a" }}
layer {{ name: "b{i}/s" type: "Scale" bottom: "b{i}/a" top: "b{i}/a" }}
layer {{ name: "b{i}/c" type: "Convolution" bottom: "b{i}/a" top: "b{i}/c"
  convolution_param {{ num_output: 3 kernel_size: 1 }} }}
layer {{ name: "b{i}/sum" type: "Eltwise" bottom: "{below}" bottom: "b{i}/c"
  top: "b{i}/sum" }}
"""


def test_blocks_that_all_nets_have_are_classes() -> None:
    """Those of training alone, and what training alone reads inside one, are not."""
    layers, below = net(x=(4, 3, 5, 5), label=(4,)), "x"
    for i in range(1, 6):
        layers += BLOCK.format(i=i, below=below)
        below = f"b{i}/sum"
    fc = FC.replace('"x"', f'"{below}"')
    aux = 'name: "aux" type: "SoftmaxWithLoss" bottom: "{}" bottom: "label" top: "aux"'
    aux += " include {{ phase: TRAIN }}"
    inside = FC.replace('"fc"', '"in"').replace('"x"', '"b2/a"')
    given = '{ num_output: 3 weight_filler { type: "xavier" } }'
    text = layers + net(
        f"{fc} {given}",
        LOSS,
        f"{inside} {given} include {{ phase: TRAIN }}",
        aux.format("in"),
    )
    made = convert_training(NetState(text), filled=True)
    flat = convert_training(NetState(text), filled=True, flat=True)
    assert "class B(nnx.Module)" in made.source
    assert "class B(" not in flat.source
    assert "self.b2_a(" in made.source
    inputs = sample(made.graph)
    results = []
    for each in (made, flat):
        model = instantiate(each)
        model.train()
        losses = call(model.losses, made.graph, inputs)
        model.eval()
        results.append((losses, call(model.metrics, made.graph, inputs)))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert set(results[0][0]) == {"loss", "aux"}


def test_layers_may_have_the_names_of_methods() -> None:
    layers, below = [], "x"
    for name in ("losses", "metrics", "trunk", "total_loss", "rngs", "outputs"):
        layer = FC.replace('"fc"', f'"{name}"').replace('"x"', f'"{below}"')
        layers.append(f"{layer} {{ num_output: 3 }}")
        below = name
    text = net(*layers, LOSS.replace('"fc"', f'"{below}"'), x=(4, 6), label=(4,))
    made = convert_training(NetState(text))
    model = instantiate(made)
    losses = call(model.losses, made.graph, sample(made.graph))
    assert model.total_loss(losses) == pytest.approx(np.log(3))


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    text = net(f"{FC} {{ num_output: 3 }}", LOSS, x=(4, 6), label=(4,))
    made = convert_training(NetState(text), filled=True)
    wider = text.replace("dim: 6", "dim: 7")
    convert_training(NetState(wider), filled=True).write(tmp_path)
    cls: Any = load_class(made.name, made.source)
    with pytest.raises(ValueError, match=r"fc.kernel is \(7, 3\).*not \(6, 3\)"):
        cls.from_pretrained(next(tmp_path.glob("*.safetensors")))


REFUSED = {
    "nothing counts in the loss": net(f"{FC} {{ num_output: 3 }}", x=(4, 6)),
    "'mbox' is left out, MultiBoxLoss serves training alone": net(
        'name: "mbox" type: "MultiBoxLoss" bottom: "x" bottom: "y" bottom: "z" '
        'bottom: "w" top: "mbox" multibox_loss_param { num_classes: 21 }',
        x=(1, 8),
        y=(1, 42),
        z=(1, 2, 8),
        w=(1, 1, 1, 8),
    ),
    "(5, 6), (5,) in TEST and (3, 6), (3,) in TRAIN: Caffe cannot share them": net(
        f"{FC} {{ num_output: 3 }} include {{ phase: TRAIN }}",
        f"{FC} {{ num_output: 5 }} include {{ phase: TEST }}",
        LOSS,
        x=(4, 6),
        label=(4,),
    ),
    "layer 'fc' has another type in TRAIN": net(
        f"{FC} {{ num_output: 3 }} include {{ phase: TRAIN }}",
        'name: "fc" type: "Scale" bottom: "x" top: "fc" include { phase: TEST }',
        LOSS,
        x=(4, 6),
        label=(4,),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_nets_that_cannot_be_trained_are_refused(message: str) -> None:
    state = NetState(REFUSED[message])
    with pytest.raises(ConversionError) as error:
        convert_training(state, [state])
    assert message in str(error.value)


def test_shapes_of_blobs_that_no_net_has_are_refused() -> None:
    state = NetState(FOLDER / "log_bn.prototxt")
    with pytest.raises(ConversionError, match="'dta', which is no input"):
        convert_training(state, [state], input_shapes={"dta": (1, 1, 28, 28)})
