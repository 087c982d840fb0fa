"""Run by a test in a process of its own: onnxruntime with one provider and numpy, nothing else.

python provider.py PROVIDER JOBS, where JOBS is a JSON file [{model, feeds, answer}] of .onnx and .npz paths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(provider: str, jobs: str) -> None:
    """Run every job; the answer also says which provider ran it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for job in json.loads(Path(jobs).read_text()):
        session = onnxruntime.InferenceSession(job["model"], options, providers=[provider])
        with np.load(job["feeds"]) as feeds:
            results = session.run(None, dict(feeds))
        named = {o.name: r for o, r in zip(session.get_outputs(), results, strict=True)}
        np.savez(job["answer"], provider=np.array(session.get_providers()[0]), **named)


main(*sys.argv[1:])
