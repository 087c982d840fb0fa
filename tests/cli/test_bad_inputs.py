"""Bad requests: one line that says what is wrong, exit code 2, nothing left behind."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import array, listing, picture, picture_model, refused, saved, table_model, token_model, two_inputs
from tiny_models import model, node

from onnxplain.engine.session import runtime
from onnxplain.models import demo_model, demo_samples

ONES = np.ones((1, 4), np.float32)
Request = Callable[[Path], list[object]]


def text_file(folder: Path) -> list[object]:
    (folder / "m.onnx").write_text("this is no model")
    return [folder / "m.onnx", array(folder / "x.npy", ONES)]


def missing_file(folder: Path) -> list[object]:
    return [folder / "m.onnx", array(folder / "x.npy", ONES)]


def truncated_file(folder: Path) -> list[object]:
    data = demo_model().read_bytes()
    (folder / "m.onnx").write_bytes(data[: len(data) // 2])
    return [folder / "m.onnx", demo_samples()[0].path]


def external(folder: Path, location: str) -> list[object]:
    proto = table_model()
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return [saved(proto, folder / "m.onnx"), array(folder / "x.npy", ONES)]


def external_missing(folder: Path) -> list[object]:
    return external(folder, "weights.bin")


def external_outside(folder: Path) -> list[object]:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "weights.bin").write_bytes(b"\0" * 48)
    return external(inner, "../weights.bin")


def unknown_opset(folder: Path) -> list[object]:
    proto = table_model()
    proto.opset_import[0].version = 99
    return [saved(proto, folder / "m.onnx"), array(folder / "x.npy", ONES)]


def unknown_ir(folder: Path) -> list[object]:
    proto = table_model()
    proto.ir_version = 99
    return [saved(proto, folder / "m.onnx"), array(folder / "x.npy", ONES)]


def unknown_domain(folder: Path) -> list[object]:
    odd = node("Relu", "x", "y")
    odd.domain = "org.example"
    proto = model([odd], {"x": ["N", 4]}, {"y": ["N", 4]}, domains=["org.example"])
    return [saved(proto, folder / "m.onnx"), array(folder / "x.npy", ONES)]


def wrong_name(folder: Path) -> list[object]:
    np.savez(folder / "x.npz", first=np.ones((1, 3)), third=np.ones((1, 3)))
    return [saved(two_inputs(), folder / "m.onnx"), folder / "x.npz"]


def one_array_for_two_inputs(folder: Path) -> list[object]:
    return [saved(two_inputs(), folder / "m.onnx"), array(folder / "x.npy", np.ones((1, 3)))]


def wrong_rank(folder: Path) -> list[object]:
    return [saved(table_model(), folder / "m.onnx"), array(folder / "x.npy", np.ones((1, 4, 1), np.float32))]


def wrong_size(folder: Path) -> list[object]:
    return [saved(table_model(), folder / "m.onnx"), array(folder / "x.npy", np.ones((1, 5), np.float32))]


def wrong_dtype(folder: Path) -> list[object]:
    return [saved(token_model(), folder / "m.onnx"), array(folder / "x.npy", np.full((1, 5), 0.5, np.float32))]


def not_a_number(folder: Path) -> list[object]:
    return [saved(table_model(), folder / "m.onnx"), array(folder / "x.npy", np.where(np.eye(4), np.nan, ONES))]


def infinite(folder: Path) -> list[object]:
    return [saved(table_model(), folder / "m.onnx"), array(folder / "x.npy", ONES * np.inf)]


def unreadable_picture(folder: Path) -> list[object]:
    (folder / "p.png").write_text("no picture")
    return [demo_model(), folder / "p.png"]


def empty_picture(folder: Path) -> list[object]:
    (folder / "p.jpg").write_bytes(b"")
    return [demo_model(), folder / "p.jpg"]


def missing_picture(folder: Path) -> list[object]:
    return [demo_model(), folder / "p.jpg"]


def undeclared_preprocessing(folder: Path) -> list[object]:
    return [saved(picture_model(), folder / "m.onnx"), picture(folder / "p.png")]


def with_options(*options: object) -> Request:
    return lambda folder: [demo_model(), demo_samples()[0].path, *options]


def with_out(name: str) -> Request:
    return lambda folder: [demo_model(), demo_samples()[0].path, "-o", folder / name]


CASES: list[tuple[Request, str]] = [
    (text_file, "not an ONNX file"),
    (missing_file, "no such file"),
    (truncated_file, "truncated"),
    (external_missing, "external data file 'weights.bin' of tensor 'w' is missing"),
    (external_outside, "outside the model's folder"),
    (unknown_opset, "opset 99 is outside"),
    (unknown_ir, "IR version 99 is outside"),
    (unknown_domain, "org.example::Relu"),
    (wrong_name, "no array for second"),
    (one_array_for_two_inputs, "first, second"),
    (wrong_rank, "has rank 3"),
    (wrong_size, "has shape [1, 5]"),
    (wrong_dtype, "whole numbers"),
    (not_a_number, "NaN or infinite"),
    (infinite, "NaN or infinite"),
    (unreadable_picture, "cannot be decoded"),
    (empty_picture, "is empty"),
    (missing_picture, "does not exist"),
    (undeclared_preprocessing, "efficientnet-lite"),
    (with_options("--target", "10"), "target 10 is out of range"),
    (with_options("--target", "hat"), "neither an index nor a label"),
    (with_options("--output", "scores"), "scores"),
    (with_options("--head", "loss"), "unknown head 'loss'"),
    (with_options("--wrt", "nothing"), "nothing"),
    (with_options("--method", "fulgrad"), "did you mean fullgrad"),
    (with_options("-O", "colour=red"), "has no option 'colour'"),
    (with_options("-O", "implicit"), "KEY=VALUE"),
    (with_options("-O", "implicit=maybe"), "give true or false"),
    (with_options("-O", "gradient.reduction=sum"), "add -m gradient"),
    (with_options("-m", "integrated_gradients", "-O", "steps=many"), "give a whole number"),
    (with_options("-m", "integrated_gradients", "-O", "steps=0"), "at least 1"),
    (with_options("--preprocess", "imagnet"), "did you mean imagenet"),
    (with_options("--mean", "a,b"), "'mean'"),
    (with_options("--layout", "CHWN"), "CHWN"),
    (with_options("--provider", "npu"), "npu"),
    (with_options("--memory", "-3"), "must be positive"),
    (with_options("--labels", "nowhere.txt"), "nowhere.txt"),
    (with_options("--tokens", "nowhere.json"), "nowhere.json"),
    (with_options("--unknown-option"), "No such option"),
    (with_options("--seed", "soon"), "--seed"),
    (with_options("--threads", "-1"), "threads"),
    (with_out("missing/x.png"), "there is no folder"),
    (with_out("missing/folder"), "there is no folder"),
    (with_out("x.gif"), "'.gif' is no known form"),
]


@pytest.mark.parametrize(("request_of", "words"), CASES, ids=[f"{k}-{words}" for k, (_, words) in enumerate(CASES)])
def test_bad_request(request_of: Request, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = request_of(tmp_path)
    before = listing(tmp_path)
    out = [] if "-o" in arguments else ["-o", tmp_path / "out.json"]
    line = refused("explain", *arguments, *out)
    assert words in line
    assert listing(tmp_path) == before


@pytest.mark.parametrize(("request_of", "words"), CASES[:7], ids=[case.__name__ for case, _ in CASES[:7]])
def test_check_refuses_the_same_files(request_of: Request, words: str, tmp_path: Path) -> None:
    assert words in refused("check", request_of(tmp_path)[0])


def test_the_place_to_write_is_looked_at_first(tmp_path: Path) -> None:
    """Before the model is read: a long run must not end on a missing folder."""
    assert "there is no folder" in refused("explain", tmp_path / "none.onnx", tmp_path / "none.png", "-o", "no/x.png")


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "in the way" in refused("explain", demo_model(), demo_samples()[0].path, "-o", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> object:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, package)

    monkeypatch.setattr(runtime.importlib, "import_module", absent)
    line = refused("explain", demo_model(), demo_samples()[0].path, "-o", tmp_path / "x.png")
    assert "onnxplain[cpu]" in line
    assert listing(tmp_path) == {}


def test_two_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(runtime, "owners", lambda: ["onnxruntime", "onnxruntime-gpu"])
    line = refused("explain", demo_model(), demo_samples()[0].path, "-o", tmp_path / "x.png")
    assert "two packages own the onnxruntime folder (onnxruntime, onnxruntime-gpu)" in line
    assert listing(tmp_path) == {}


# ----- commands that measure, check, compare and write ----------------------------------------------


def labelled(folder: Path, **other: object) -> list[object]:
    """A table model and three samples with their classes; some of these arrays may be given otherwise."""
    arrays: dict[str, Any] = {"x": np.ones((3, 4), np.float32), "y": np.arange(3), **other}
    np.savez(folder / "d.npz", **arrays)
    return [saved(table_model(), folder / "m.onnx"), folder / "d.npz"]


def labelled_with(*options: object) -> Request:
    return lambda folder: [*labelled(folder), *options]


def no_model(folder: Path) -> list[object]:
    return [folder / "none.onnx", labelled(folder)[1]]


def text_as_model(folder: Path) -> list[object]:
    data = labelled(folder)[1]
    return [text_file(folder)[0], data]


def foreign_operator(folder: Path) -> list[object]:
    data = labelled(folder)[1]
    return [unknown_domain(folder)[0], data]


def text_as_arrays(folder: Path) -> list[object]:
    (folder / "d.npz").write_text("no arrays")
    return [saved(table_model(), folder / "m.onnx"), folder / "d.npz"]


def no_arrays(folder: Path) -> list[object]:
    np.savez(folder / "d.npz")
    return [saved(table_model(), folder / "m.onnx"), folder / "d.npz"]


def missing_values(folder: Path) -> list[object]:
    return labelled(folder, x=np.where(np.eye(3, 4), np.nan, 1.0).astype(np.float32))


def one_class_less(folder: Path) -> list[object]:
    return labelled(folder, y=np.arange(2))


def two_inputs_of_floats(folder: Path) -> list[object]:
    np.savez(folder / "d.npz", first=np.ones((2, 3), np.float32), second=np.ones((2, 3), np.float32))
    return [saved(two_inputs(), folder / "m.onnx"), folder / "d.npz"]


def whole_numbers(folder: Path) -> list[object]:
    np.savez(folder / "d.npz", ids=np.ones((2, 5), np.int64), y=np.arange(2))
    return [saved(token_model(), folder / "m.onnx"), folder / "d.npz"]


def nothing_there(folder: Path) -> list[object]:
    (folder / "void").mkdir()
    return [saved(table_model(), folder / "m.onnx"), folder / "void"]


def class_file(text: str) -> Request:
    """A folder with one picture, and a CSV file that does not fit it."""

    def made(folder: Path) -> list[object]:
        (folder / "photos").mkdir()
        picture(folder / "photos" / "p.png")
        (folder / "c.csv").write_text(text)
        proto = saved(picture_model(), folder / "m.onnx")
        return [proto, folder / "photos", "--preprocess", "raw", "--classes", folder / "c.csv"]

    return made


def two_builds(*options: object) -> Request:
    def made(folder: Path) -> list[object]:
        model_file, data = labelled(folder)
        return [model_file, saved(table_model(), folder / "second.onnx"), data, *options]

    return made


def model_only(*options: object) -> Request:
    return lambda folder: [saved(table_model(), folder / "m.onnx"), *options]


SAMPLED = ("evaluate", "report", "roar", "verify", "explain", "compare")
MEASURING = ("evaluate", "report", "roar")
REQUESTS: list[tuple[tuple[str, ...], Request, str]] = [
    (SAMPLED, no_model, "no such file"),
    (SAMPLED, text_as_model, "not an ONNX file"),
    (("evaluate", "report", "roar", "verify", "explain"), foreign_operator, "org.example"),
    (SAMPLED, text_as_arrays, "no NumPy file"),
    (SAMPLED, no_arrays, "holds no arrays"),
    (SAMPLED, labelled_with("--seed", "-1"), "--seed"),
    (SAMPLED, labelled_with("--layout", "CHWN"), "CHWN"),
    (("evaluate", "report", "verify", "explain", "compare"), nothing_there, "no pictures and no arrays"),
    (("evaluate", "report", "roar", "explain", "compare"), labelled_with("-m", "fulgrad"), "did you mean fullgrad"),
    (MEASURING, missing_values, "NaN or infinite"),
    (MEASURING, one_class_less, "2 labels for 3 samples"),
    (MEASURING, two_inputs_of_floats, "one input of floats"),
    (MEASURING, whole_numbers, "one input of floats"),
    (MEASURING, labelled_with("--output", "scores"), "scores"),
    (MEASURING, labelled_with("--head", "loss"), "unknown head 'loss'"),
    (MEASURING, labelled_with("-o", "missing/x.html"), "cannot write"),
    (("evaluate", "report"), class_file("p.png\n"), "without a class"),
    (("evaluate", "report"), class_file("q.png,1\n"), "not in"),
    (("evaluate", "report"), class_file("p.png,zebra\n"), "zebra"),
    (("evaluate", "report"), labelled_with("-M", "nothing"), "unknown metric 'nothing'"),
    (("evaluate", "report"), labelled_with("--limit", "-1"), "--limit"),
    (("evaluate",), labelled_with("--target", "9"), "target 9 is out of range"),
    (("evaluate",), labelled_with("-o", "missing/results"), "there is no folder 'missing'"),
    (("evaluate",), labelled_with("--sanity", "--distribution", "odd"), "distribution='odd'"),
    (("evaluate",), labelled_with("--metric-option", "steps"), "METRIC.KEY=VALUE"),
    (("report",), labelled_with("--resume", "missing/results"), "there is no folder 'missing'"),
    (("roar",), labelled_with("--folder", "missing/results"), "there is no folder 'missing'"),
    (("roar",), labelled_with("--fractions", "1.5"), "between 0 and 1"),
    (("roar",), labelled_with("--optimiser", "best"), "unknown optimiser 'best'"),
    (("verify",), labelled_with("--key", "x", "--target", "9"), "target 9 is out of range"),
    (("verify",), labelled_with("--key", "x", "--seconds", "nan"), "positive"),
    (("compare",), two_builds("--threshold", "cosine=nan"), "--threshold 'cosine=nan'"),
    (("compare",), two_builds("--threshold", "likeness=1"), "there is no threshold 'likeness'"),
    (("compare",), two_builds("-o", "x.gif"), "'.gif' is no known form"),
    (("compare",), labelled_with("--threshold", "flips=0"), "name the second .onnx file"),
    (("compile",), model_only("-o", "m.onnx"), "it is what is read"),
    (("compile",), model_only("-o", "x.txt"), "ends in .onnx"),
    (("compile",), model_only("-o", "missing/x.onnx"), "there is no folder 'missing'"),
    (("compile",), model_only("-o", "x.onnx", "-t", "9"), "target 9 is out of range"),
    (("compile",), model_only("-o", "x.onnx", "-m", "nonlinear_saliency"), "cannot be written as a file"),
    (("compile",), model_only("-o", "x.onnx", "--profile", "abacus"), "profile 'abacus'"),
    (("check",), model_only("-m", "fulgrad"), "did you mean fullgrad"),
    (("check",), model_only("--provider-profile", "abacus"), "profile 'abacus'"),
    (("methods", "metrics"), lambda _: ["nothing"], "'nothing'"),
]


@pytest.mark.parametrize(
    ("command", "request_of", "words"),
    [(command, request_of, words) for commands, request_of, words in REQUESTS for command in commands],
    ids=[f"{command}-{k}-{words}" for k, (commands, _, words) in enumerate(REQUESTS) for command in commands],
)
def test_bad_request_of_every_command(
    command: str, request_of: Request, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = request_of(tmp_path)
    before = listing(tmp_path), sorted(tmp_path.iterdir())
    assert words in refused(command, *arguments)
    assert (listing(tmp_path), sorted(tmp_path.iterdir())) == before


def test_nothing_is_written_over_what_is_read(tmp_path: Path) -> None:
    photo = picture(tmp_path / "p.png")
    kept = photo.read_bytes()
    model_file = saved(picture_model(), tmp_path / "m.onnx")
    assert "it is what is read" in refused("explain", model_file, photo, "--preprocess", "raw", "-o", photo)
    assert photo.read_bytes() == kept
