"""Makes what the page needs and the repository does not hold: the compiled model, and the browser's runtime.

    python examples/web/build.py --runtime node_modules/onnxruntime-web [--out FOLDER]

``--runtime`` is the npm package onnxruntime-web, installed anywhere (``npm install onnxruntime-web``). Without
``--out`` the files go beside this script, into ``model/`` and ``vendor/``; with it, the whole page goes there,
ready for any static server.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import onnxplain as ox
from onnxplain.models import demo_labels, demo_model, demo_samples

HERE = Path(__file__).resolve().parent

#: The page itself.
PAGE = ("index.html", "style.css", "app.js")

#: What a browser loads of onnxruntime-web for WebAssembly.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")

MODEL = "fashion-mnist.explained.onnx"


def make_model(folder: Path) -> None:
    """Compile the demo network, and write what the page has to know of it."""
    folder.mkdir(parents=True, exist_ok=True)
    explainer = ox.compile(demo_model(), method="fullgrad", threads=1)
    explainer.save(folder / MODEL)
    (image,) = explainer.source.inputs
    (logits,) = explainer.source.outputs
    samples = []
    for sample in demo_samples():
        shutil.copyfile(sample.path, folder / sample.path.name)
        samples.append({"file": sample.path.name, "label": sample.class_name})
    height, width = image.shape[-2:] if image.shape else (28, 28)
    about = {
        "file": MODEL, "input": image.name, "output": logits.name, "width": width, "height": height,
        "labels": demo_labels(), "samples": samples,
    }  # fmt: skip
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def copy_runtime(package: Path, folder: Path) -> None:
    """Copy the runtime's files out of the npm package."""
    missing = [name for name in RUNTIME if not (package / "dist" / name).is_file()]
    if missing:
        raise SystemExit(
            f"{package} lacks dist/{missing[0]}; give the folder of the npm package onnxruntime-web "
            "(npm install onnxruntime-web)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME:
        shutil.copyfile(package / "dist" / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the demo page's model and runtime.")
    parser.add_argument("--runtime", type=Path, required=True, help="folder of the npm package onnxruntime-web")
    parser.add_argument("--out", type=Path, default=HERE, help="where to; beside this script by default")
    arguments = parser.parse_args()
    copy_runtime(arguments.runtime, arguments.out / "vendor")
    make_model(arguments.out / "model")
    if arguments.out.resolve() != HERE:
        for name in PAGE:
            shutil.copyfile(HERE / name, arguments.out / name)


if __name__ == "__main__":
    main()
