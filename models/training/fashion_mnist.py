"""Trains the network that ships with the package, so that `onnxplain demo` has something real to explain.

Run as ``python models/training/fashion_mnist.py --data FOLDER``, where FOLDER holds the four ``.gz``
files of Fashion-MNIST (Debian: package ``dataset-fashion-mnist``). Needs the ``torch`` extra. Guarantees:
fixed seed and one thread by default, so a second run on the same machine and torch gives the same weights; no
look at the test set before the last epoch is over; the written file is one self-contained ONNX model
with BatchNormalization kept, which is what a bias-aware attribution has to cope with in practice.
"""

# torch is optional, so a type check without it must not stumble over its base classes.
# mypy: disallow-subclassing-any=False, disallow-untyped-calls=False, warn-return-any=False

from __future__ import annotations

import argparse
import ast
import gzip
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

DEMO = Path(__file__).resolve().parent.parent / "demo"
LABELS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
PREPROCESS = {"size": [28, 28], "resize": "stretch", "scale": "1/255", "channel_order": "GRAY", "layout": "NCHW"}
SAMPLE_CLASSES = (0, 1, 3, 4, 5, 7, 8, 9)


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNormalization and a shortcut around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    """Biases of every kind in one small net: Conv (stem), BatchNormalization (blocks), Gemm (head)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 5, padding=2)
        self.widen1 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.block1 = Residual(32)
        self.widen2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.block2 = Residual(64)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(64, len(LABELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.stem(image)))
        x = self.block1(torch.relu(self.norm1(self.widen1(x))))
        x = self.block2(torch.relu(self.norm2(self.widen2(self.pool(x)))))
        return self.head(x.mean(dim=(2, 3)))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An unsigned-byte IDX file: two zero bytes, type 8, rank, big-endian sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path.name} is not an IDX file of unsigned bytes; point --data at the Fashion-MNIST files")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def tensors(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures f32[N,1,28,28] in 0..1 and their classes."""
    pictures = read_idx(folder / f"{part}-images-idx3-ubyte.gz").astype(np.float32)[:, None] / np.float32(255)
    classes = read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
    return torch.from_numpy(pictures), torch.from_numpy(classes)


def train(net: Net, x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int = 128) -> None:
    """SGD with a one-cycle rate; the only augmentation is a left-right flip of half of the pictures."""
    steps = len(x) // batch
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps * epochs, pct_start=0.25)
    net.train()
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(len(x))
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            flip = (torch.rand(batch) < 0.5)[:, None, None, None]
            picture = torch.where(flip, x[chosen].flip(3), x[chosen])
            loss = nn.functional.cross_entropy(net(picture), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)


def predict(net: Net, x: torch.Tensor) -> torch.Tensor:
    """Class probabilities, in batches of 1000."""
    net.eval()
    with torch.no_grad():
        return torch.cat([torch.softmax(net(part), dim=1) for part in x.split(1000)])


def export(net: Net, path: Path, accuracy: float) -> None:
    """Write one file, opset 18, IR 10, BatchNormalization and all biases kept, nothing of this machine inside."""
    import onnxscript

    net.eval()
    program: Any = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 28, 28),),
        None,
        dynamo=True,
        opset_version=18,
        optimize=False,  # the optimiser would fold BatchNormalization into the convolutions
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: "N"},),
        verbose=False,
    )
    onnxscript.optimizer.fold_constants(program.model, onnx_shape_inference=True)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    onnx.save_model(clean(model, accuracy), path)


def clean(model: onnx.ModelProto, accuracy: float) -> onnx.ModelProto:
    """Drop what the exporter noted about the source code; add what a user of the file needs to know."""
    graph = model.graph
    name_nodes(graph)
    drop_zero_biases(graph)
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.metadata_props[:], graph.value_info[:], model.metadata_props[:], model.functions[:]
    model.ir_version = 10
    graph.name, graph.doc_string = "fashion_mnist", ""
    model.doc_string = "Fashion-MNIST classifier, BatchNormalization kept."
    notes = {
        "onnxplain.preprocess": json.dumps(PREPROCESS),
        "onnxplain.labels": json.dumps(LABELS),
        "onnxplain.test_accuracy": f"{accuracy:.4f}",
        "licence": "Apache-2.0 (weights); trained on Fashion-MNIST, MIT, (c) 2017 Zalando SE",
    }
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name each node after the module it comes from (``block1.bn1``, ``block1/Relu``), as reports show these names."""
    seen: set[str] = set()
    for node in graph.node:
        notes = {item.key: item.value for item in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "['', '']"))
        owner = scopes[-2] if len(scopes) > 1 else ""
        leaf = node.op_type in ("Conv", "BatchNormalization", "Gemm")
        name = owner if leaf else f"{owner}/{node.op_type}".lstrip("/")
        node.name = name if name not in seen else f"{name}_{sum(other.startswith(name) for other in seen)}"
        seen.add(node.name)


def drop_zero_biases(graph: onnx.GraphProto) -> None:
    """The exporter writes a bias of zeros for a convolution that has none; without it the file says what the net is."""
    zeros = {item.name for item in graph.initializer if not onnx.numpy_helper.to_array(item).any()}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    used = {name for node in graph.node for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def write_samples(folder: Path, x: torch.Tensor, y: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Per chosen class the first test picture that the net is sure of (above 0.95) and right about."""
    for index in SAMPLE_CLASSES:
        sure = torch.nonzero((y == index) & (probabilities[:, index] > 0.95))
        picture = (x[int(sure[0]), 0].numpy() * 255).round().astype(np.uint8)
        name = LABELS[index].lower().replace("/", "-").replace(" ", "-")
        cv2.imwrite(str(folder / f"{name}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(f"{name}.png: test picture {int(sure[0])}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the demo network.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four Fashion-MNIST .gz files")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder to write to (default: models/demo)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    net = Net()
    print(f"{sum(p.numel() for p in net.parameters())} parameters")
    train(net, *tensors(options.data, "train"), options.epochs)
    x, y = tensors(options.data, "t10k")
    probabilities = predict(net, x)
    accuracy = float((probabilities.argmax(1) == y).float().mean())
    print(f"test accuracy {accuracy:.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    export(net, options.out / "fashion-mnist.onnx", accuracy)
    (options.out / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    write_samples(options.out, x, y, probabilities)


if __name__ == "__main__":
    main()
