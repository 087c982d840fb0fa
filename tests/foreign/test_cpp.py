"""The C++ example gives the Python call's map, where onnxruntime's headers are installed.

Debian 13 has them in libonnxruntime-dev, npm in a package for another platform (see .ci/run); onnxruntime-node holds
the library.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from foreign import FOLDER

import onnxplain as ox
from onnxplain.models import demo_model

SOURCE = FOLDER.parents[1] / "examples" / "edge" / "explain.cpp"
MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "")


def headers() -> Path | None:
    """Folder of onnxruntime_cxx_api.h: named by ``ONNXRUNTIME_INCLUDE``, or the system's."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    return next((Path(p) for p in places if p and (Path(p) / "onnxruntime_cxx_api.h").is_file()), None)


def library() -> Path | None:
    """Folder of libonnxruntime.so.1: that of onnxruntime-node, or the system's."""
    node = FOLDER / "node_modules" / "onnxruntime-node" / "bin" / "napi-v6" / "linux" / MACHINE
    places = [node, Path("/usr/lib") / f"{platform.machine()}-linux-gnu", Path("/usr/lib"), Path("/usr/local/lib")]
    return next((p for p in places if (p / "libonnxruntime.so.1").is_file()), None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(headers() is None, reason="needs onnxruntime_cxx_api.h; name its folder in ONNXRUNTIME_INCLUDE")
@pytest.mark.skipif(library() is None, reason="needs libonnxruntime.so.1: npm ci in tests/foreign")
def test_the_cpp_example(tmp_path: Path) -> None:
    program, folder = tmp_path / "explain", library()
    command = ["g++", "-std=c++17", "-Wall", "-I", str(headers()), str(SOURCE), f"-L{folder}", "-l:libonnxruntime.so.1"]
    subprocess.run([*command, f"-Wl,-rpath,{folder}", "-o", str(program)], check=True)
    explainer = ox.compile(demo_model(), method="fullgrad", threads=1)
    model = explainer.save(tmp_path / "e.onnx")
    x = ox.demo_input()[-1:]
    x.astype(np.float32).tofile(tmp_path / "x.f32")
    for target in (-1, 7):
        arguments = [str(program), str(model), str(tmp_path / "x.f32"), str(target), str(tmp_path / "map.f32")]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        e = explainer(x, target=None if target < 0 else target)
        best = int(e.outputs["logits"].argmax())
        found = re.match(r"class (\d+), score ([\d.-]+), residual", done.stdout)
        assert found is not None
        assert int(found[1]) == best
        assert abs(float(found[2]) - e.outputs["logits"].max()) < 1e-4
        assert e.saliency is not None
        gap = np.abs(np.fromfile(tmp_path / "map.f32", np.float32).reshape(28, 28) - e.saliency[0]) / e.saliency.max()
        assert (gap > 1e-5).mean() < 0.1, "ties at max-pooling, on the picture's one-coloured background, go either way"
        assert gap.max() < 5e-3
    (tmp_path / "short.f32").write_bytes(b"1234")
    arguments[2] = str(tmp_path / "short.f32")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
