"""Runs compiled files by one execution provider, in a process that has onnxruntime and NumPy and nothing else.

Called as ``provider.py REQUEST``, a JSON file: {provider, options, jobs: [{model, feeds, answer}]}, of .onnx and .npz
paths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

#: This package, and what it needs beside a runtime, cannot be imported here.
for absent in ("onnxplain", "onnx", "onnx_ir", "cv2", "matplotlib"):
    sys.modules[absent] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402


def main(request: str) -> None:
    """Run every job; the answer also says which provider ran it."""
    asked = json.loads(Path(request).read_text())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    for job in asked["jobs"]:
        chosen = [(asked["provider"], asked["options"])]
        session = onnxruntime.InferenceSession(job["model"], options, providers=chosen)
        with np.load(job["feeds"]) as feeds:
            results = session.run(None, dict(feeds))
        named = {o.name: r for o, r in zip(session.get_outputs(), results, strict=True)}
        np.savez(job["answer"], provider=np.array(session.get_providers()[0]), **named)


main(*sys.argv[1:])
