"""Remove and retrain on a task whose answer is known: one place alone decides the class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import assets, model, node

from onnxplain.engine.errors import InputError, OptionError, OutputError
from onnxplain.engine.evaluation.roar import Recipe, roar
from onnxplain.engine.evaluation.roar_report import RoarReport, Run
from onnxplain.engine.loading import load
from onnxplain.engine.training.trainer import Trainer

QUICK = Recipe(epochs=15, batch_size=32, lr=0.05)


def corner() -> onnx.ModelProto:
    """Knows that the first of 16 places decides."""
    w = np.zeros((16, 2))
    w[0] = [-1, 1]
    return model(
        [node("Flatten", "x", "f"), node("Gemm", "f w b", "y")],
        {"x": ["N", 1, 4, 4]}, {"y": ["N", 2]}, {"w": w, "b": np.zeros(2)},
    )  # fmt: skip


def samples(count: int, seed: int) -> dict[str, Any]:
    x = np.random.default_rng(seed).normal(size=(count, 1, 4, 4)).astype(np.float32)
    return {"x": x, "y": (x[:, 0, 0, 0] > 0).astype(int)}


TRAIN, TEST = samples(400, 0), samples(400, 1)


def measure(**options: Any) -> RoarReport:
    given = {"methods": ("gradient", "random"), "fractions": [1 / 16], "seeds": 2, "recipe": QUICK, "threads": 1}
    return roar(corner(), TRAIN, TEST, **{**given, **options})


def test_without_the_place_that_decides_nothing_is_learned() -> None:
    report = measure(modes=("roar", "kar"))
    assert report.original == 1
    assert min(report.clean) > 0.95
    (removed,), (kept,) = (report.curve("gradient", m)[1] for m in ("roar", "kar"))
    # Of 400 coin tosses: half, within four standard deviations.
    assert abs(removed - 0.5) < 0.1
    assert kept > 0.97
    # One place of 16 at random hits the right one in a sixteenth of the samples.
    (hardly,), (little,) = (report.curve("random", m)[1] for m in ("roar", "kar"))
    assert hardly > 0.9
    assert little < 0.65
    assert [name for name, _ in report.ranking("roar")] == ["gradient", "random"]
    assert [name for name, _ in report.ranking("kar")] == ["gradient", "random"]


def test_one_mask_for_all_tells_nothing() -> None:
    (alone,) = measure(modes=("mask",), methods=("gradient",)).curve("gradient", "mask")[1]
    assert abs(alone - 0.5) < 0.1


def test_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = measure(folder=tmp_path)
    written = sorted(tmp_path.glob("gradient.roar.*.json"))
    assert len(written) == 2
    written[0].write_text("{")  # half a file
    trained: list[int] = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *a, **k: (trained.append(1), fit(self, *a, **k))[1])
    again = measure(folder=tmp_path, progress=lambda done, total, _: told.append((done, total)))
    assert len(trained) == 1
    assert again.runs == first.runs
    assert again.clean == first.clean
    assert told[-1] == (6, 6)
    measure(folder=tmp_path, recipe=Recipe(epochs=1))
    assert len(trained) == 7, "another recipe takes nothing over"


def test_part_of_the_samples_becomes_the_test_set() -> None:
    report = roar(
        corner(), TRAIN, methods=["random"], fractions=[0.5], seeds=[3], recipe=QUICK, test_share=0.25, threads=1
    )
    assert (report.provenance["training_samples"], report.provenance["test_samples"]) == (300, 100)
    assert [r.seed for r in report.runs] == [3]


REFUSED = [
    ({"fractions": [0.0]}, OptionError, "between 0 and 1"),
    ({"fractions": []}, OptionError, "between 0 and 1"),
    ({"modes": ("road",)}, OptionError, "choose from roar, kar, mask"),
    ({"seeds": 0}, OptionError, "number of trainings"),
    ({"methods": ("gradiant",)}, OptionError, "did you mean gradient"),
    ({"recipe": Recipe(optimiser="sdg")}, OptionError, "unknown optimiser"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_bad_requests(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        measure(**options)


def test_labels_are_needed() -> None:
    with pytest.raises(InputError, match="true classes"):
        roar(corner(), {"x": TRAIN["x"]}, TEST)
    with pytest.raises(OptionError, match="leaves none"):
        roar(corner(), TRAIN, test_share=0.0)


# ----- the report -------------------------------------------------------------------------------------


def report() -> RoarReport:
    runs = [
        Run(name, "roar", t, seed, value + 0.02 * seed, 0.1)
        for name, start in (("a", 0.9), ("b", 0.5))
        for t, value in ((0.1, start), (0.5, start - 0.2))
        for seed in (0, 1)
    ]
    return RoarReport(runs, [0.95, 0.97], 0.96, {"seed": 0})


def test_means_deviations_and_ranking() -> None:
    shares, means, deviations = report().curve("a")
    assert shares.tolist() == [0.1, 0.5]
    assert means == pytest.approx([0.91, 0.71])
    assert deviations == pytest.approx([0.02 / np.sqrt(2)] * 2)  # of two values, with n - 1
    assert report().ranking() == [("b", pytest.approx(0.41)), ("a", pytest.approx(0.81))]
    assert len(report().rows()) == 4


def test_files(tmp_path: Path) -> None:
    found = report()
    lines = found.save(tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == "method,mode,fraction,seed,accuracy,without_retraining"
    assert len(lines) == 9
    content = json.loads(found.save(tmp_path / "r.json").read_text())
    assert content["clean"]["mean"] == pytest.approx(0.96)
    assert content["ranking"]["roar"][0][0] == "b"
    assert found.save(tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    svg = found.save(tmp_path / "r.svg").read_text()
    assert "<svg" in svg
    with pytest.raises(OutputError, match="no known form"):
        found.save(tmp_path / "r.txt")


def test_a_figure_has_the_same_bytes_each_time() -> None:
    assert report().figure() == report().figure()


# ----- against PyTorch --------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.slow
def test_retrained_digits_are_as_good_as_pytorchs() -> None:
    """The same recipe: five trainings each, mean accuracies within one point."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    folder = assets()
    if folder is None:
        pytest.skip("the development models are not here; name their folder in ONNXPLAIN_ASSETS")
    digits = datasets.load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target
    test = np.load(folder / "data" / "digits_test_index.npy")
    train = np.setdiff1d(np.arange(len(x)), test)
    trainer = Recipe().trainer(load(folder / "digits-cnn.onnx", threads=1))
    ours, theirs = [], []
    for seed in range(5):
        trainer.initialise(seed)
        trainer.fit(x[train], y[train], epochs=20, batch_size=64, seed=seed)
        ours.append(trainer.accuracy(x[test], y[test]))
        theirs.append(reference(torch, x[train], y[train], x[test], y[test], seed))
    assert abs(np.mean(ours) - np.mean(theirs)) < 0.01
    assert np.mean(theirs) > 0.96


def reference(torch: Any, x: Any, y: Any, unseen: Any, truth: Any, seed: int) -> float:
    """The recipe in PyTorch: He's normal weights, zero biases, Adam at 1e-3, batches of 64, 20 epochs."""
    nn = torch.nn
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    for layer in net:
        if hasattr(layer, "weight"):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(20):
        for rows in torch.randperm(len(inputs)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        return float((net(torch.from_numpy(unseen)).argmax(1).numpy() == truth).mean())
