"""``onnxplain evaluate``: tables with intervals, sanity verdicts, files, folders to go on from, exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import array, call, listing, picture, picture_model, refused, saved, table_model

pytest.importorskip("skimage", reason="needs the evaluate extra")

FAST = ["--threads", "1", "--draws", "1"]
METRIC = ["--metric", "pixel_perturbation"]
DECLARED = '{"size": [6, 6], "scale": "1/255"}'


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(picture_model(preprocess=DECLARED, labels='["cat", "dog"]'), tmp_path / "net.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of each of two classes."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            picture(tmp_path / "data" / name / f"{i}.png", seed=10 * number + i)
    return tmp_path / "data"


def document(*arguments: object, code: int = 0) -> Any:
    result = call("evaluate", *arguments, "--json", *FAST)
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def test_metrics_over_a_folder_by_class(net: Path, folder: Path) -> None:
    found = document(net, folder, "-m", "gradient", "-m", "random", *METRIC)
    facts = found["metrics"]["provenance"]
    assert facts["samples"] == 6 and facts["accuracy"] is not None
    assert [name.split("/")[0] for name in found["metrics"]["names"]] == ["cat", "dog"] * 3
    assert {r["method"] for r in found["metrics"]["results"]} == {"gradient", "random"}
    for r in found["metrics"]["results"]:
        assert r["low"] <= r["mean"] <= r["high"]
    assert "sanity" not in found


def test_the_numbers_are_those_of_python(net: Path, folder: Path) -> None:
    import onnxplain as ox

    found = document(net, folder, "-m", "gradient", *METRIC, "--seed", "3")
    report = ox.evaluate(net, folder, methods=["gradient"], metrics=["pixel_perturbation"], seed=3, threads=1)
    assert found["metrics"]["results"][0]["values"] == pytest.approx(report.results[0].values.tolist())


def test_tables_name_the_better_direction_and_put_the_best_first(net: Path, folder: Path) -> None:
    result = call("evaluate", net, folder, "-m", "random", "-m", "gradient", "-m", "edges", *METRIC, *FAST)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("pixel_perturbation (lower is better)"))
    means = [float(line.split()[1]) for line in lines[start + 3 : start + 6]]
    assert means == sorted(means)
    assert "6 samples, accuracy" in lines[0]


def test_what_ignores_the_model_fails_and_does_not_count(net: Path, folder: Path) -> None:
    found = document(net, folder, "-m", "edges", "--sanity")
    assert found["sanity"]["verdicts"] == {"edges": "fail"}
    assert "metrics" not in found


def test_a_method_that_fails_is_exit_code_1(tmp_path: Path) -> None:
    """Both classes have the same weights, so no map can depend on the class that is asked for."""
    from tiny_models import model, node

    column = np.abs(np.random.default_rng(0).normal(size=(12, 1)))
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 12]}, {"y": ["N", 2]}, {"w": np.hstack([column, column])})
    net = saved(proto, tmp_path / "net.onnx")
    x = array(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(8, 12)).astype(np.float32))
    result = call("evaluate", net, x, "-m", "gradient", "--sanity", *FAST)
    assert result.exit_code == 1
    (line,) = [line.split() for line in result.stdout.splitlines() if line.startswith("gradient")]
    assert line == ["gradient", "fail"]


def test_files_and_a_folder_to_go_on_from(net: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = [net, folder, "-m", "gradient", "-m", "edges", *METRIC, "--sanity", "-o", out, "-o", tmp_path / "r.csv"]
    result = call("evaluate", *arguments, *FAST)
    assert result.exit_code in (0, 1), result.stderr
    files = listing(out)
    assert {"results.csv", "results.sanity.csv", "results.json"} <= set(files)
    assert len([n for n in files if n.endswith(".npz")]) == 2 + 2 * 3
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert len(rows) == 2 * 6 and set(rows[0]) == {"method", "metric", "sample", "value"}
    again = call("evaluate", *arguments, *FAST)
    assert again.exit_code == result.exit_code
    assert listing(out) == files
    parts = json.loads(files["results.json"])
    assert set(parts) == {"metrics", "sanity"}


def test_parquet_holds_the_same_rows(net: Path, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the evaluate extra")
    document(net, folder, "-m", "gradient", *METRIC, "-o", tmp_path / "r.parquet", "-o", tmp_path / "r.csv")
    table = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [(r["sample"], r["value"]) for r in table] == [(r["sample"], float(r["value"])) for r in rows]


def test_an_npz_with_labels_and_a_limit(tmp_path: Path) -> None:
    net = saved(table_model(), tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(9, np.int64), other=x[::-1])
    found = document(net, tmp_path / "d.npz", "-m", "gradient", *METRIC, "--limit", "5")
    assert found["metrics"]["provenance"]["samples"] == 5
    assert found["metrics"]["provenance"]["accuracy"] is not None
    turned = document(net, tmp_path / "d.npz", "-m", "gradient", *METRIC, "--key", "other")
    assert turned["metrics"]["provenance"]["samples"] == 9
    assert turned["metrics"]["provenance"]["classes"][::-1][:5] == found["metrics"]["provenance"]["classes"]


def test_classes_from_a_csv_file(net: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("cat/0.png,dog\ncat/1.png,dog\n")
    found = document(net, folder, "--classes", tmp_path / "c.csv", "-m", "gradient", *METRIC)
    facts = found["metrics"]["provenance"]
    assert facts["samples"] == 2
    assert facts["accuracy"] == np.mean([c == 1 for c in facts["classes"]])


def test_options_of_methods_and_metrics(net: Path, folder: Path) -> None:
    found = document(
        net, folder, "-m", "gradient", "-m", "random", "-O", "reduction=max_abs", *METRIC,
        "--metric-option", "fractions=[0.2, 0.5]",
    )  # fmt: skip
    first = next(r for r in found["metrics"]["results"] if r["method"] == "gradient")
    assert first["options"] == {"reduction": "max_abs"}
    assert first["metric_options"]["fractions"] == [0.2, 0.5]


def test_a_target_for_all(net: Path, folder: Path) -> None:
    found = document(net, folder, "-m", "gradient", *METRIC, "--target", "dog")
    assert set(found["metrics"]["provenance"]["classes"]) == {1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-m", "gradiant"], "gradiant"),
        (["--metric", "pixels"], "pixels"),
        (["-m", "gradient", "--metric-option", "fill"], "METRIC.KEY=VALUE"),
        (["--metric", "pixel_perturbation", "--metric-option", "fil=0"], "no option 'fil'"),
        (["-m", "gradient", "-o", "r.png"], "no known form"),
        (["-m", "gradient", "--target", "top:3"], "not one class"),
        (["-m", "gradient", "--sanity", "--distribution", "uniform"], "'uniform'"),
        (["-m", "gradient", "--scored", "chance"], "chance"),
        (["-m", "gradient", "--classes", "none.csv"], "cannot be read"),
    ],
)
def test_bad_requests(
    net: Path, folder: Path, given: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    assert words in refused("evaluate", net, folder, *given)
    assert listing(tmp_path) == before


def test_a_folder_whose_classes_nobody_knows(tmp_path: Path, folder: Path) -> None:
    net = saved(picture_model(preprocess=DECLARED), tmp_path / "plain.onnx")
    assert "class 'cat' is no number" in refused("evaluate", net, folder, "-m", "gradient", *METRIC)
