"""Bad requests: one line that says what is wrong, exit code 2, nothing left behind."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

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
