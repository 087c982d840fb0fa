"""Recipe (d), positive aggregation and propagation (2012.00362): do positive-only variants forget the model?

Run as ``python benchmarks/papers/positive_gradients.py ASSETS``. Signed and positive-only forms of the same methods
under both sanity checks on a trained net. The paper finds that positive-only ones keep more of their map when
weights are drawn anew and when another class is asked for. Maps are compared by the ranks of their magnitudes, so
that a map of both signs gets no credit for changing sign. What maps of other pictures have in common anyway is taken
off: the share kept is (similarity - null) / (1 - null).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import fashion_mnist, figure, finish, model, request

from onnxplain.engine.evaluation.sanity import sanity

#: Signed form, positive-only form.
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "FullGrad": (("fullgrad", {"sign": "signed", "rescale": "max"}), ("fullgrad", {"sign": "pos"})),
    "Grad-CAM": (("gradcam", {"relu": False}), ("gradcam", {"sign": "pos"})),
    "Grad-CAM++": (("gradcam", {"relu": False}), ("gradcam_plus_plus", {})),
    "Guided Backprop": (("gradient", {"reduction": "sum"}), ("guided_backprop", {"reduction": "sum"})),
    "LRP": (("lrp", {}), ("lrp", {"composite": "epsilon_plus"})),
}
CHECKS = {"cascading": "weights are drawn anew", "classes": "another class is asked for"}


def main() -> None:
    """Similarities of both forms."""
    asked = request(__doc__ or "", limit=40)
    x, _ = fashion_mnist(asked)
    rows, panels, numbers = [], {}, {}
    claims: dict[str, bool | None] = {}
    net = model(asked, "fmnist-vgg-small")
    for title, forms in PAIRS.items():
        found: dict[str, Any] = {}
        for label, (name, options) in zip(("signed", "positive only"), forms, strict=True):
            report = sanity(net, x, methods={name: options}, checks=tuple(CHECKS), draws=2, seed=asked.seed)
            found[label] = {check: report.result(name, check).evidence("spearman_absolute") for check in CHECKS}
            curve = np.array(list(found[label]["cascading"].steps.values()))
            panels.setdefault(title, {})[label] = (np.arange(1, len(curve) + 1), curve)
            cells = [cell for e in found[label].values() for cell in (mean(e), float(e.null_image), share(e))]
            rows.append([title, label, name, *cells])
        numbers[title] = {
            form: {c: {"steps": e.steps, "null": e.null_image, "kept": e.kept} for c, e in checks.items()}
            for form, checks in found.items()
        }
        for check, words in CHECKS.items():
            signed, positive = found["signed"][check], found["positive only"][check]
            claims[f"{title}: the positive-only form keeps more when {words}"] = more(positive, signed)
    columns = ["method", "form", "name"]
    columns += [f"{check}: {what}" for check in CHECKS for what in ("similarity", "null", "kept")]
    finish(asked, "positive_gradients", columns, rows, claims, numbers)
    figure(asked, "positive_gradients", panels, "blocks drawn anew, from the output", "rank correlation of magnitudes")


def mean(evidence: Any) -> float:
    """Similarity over all steps of a check."""
    return float(np.mean(list(evidence.steps.values())))


def share(evidence: Any) -> str:
    """The share kept, with its interval."""
    return f"{evidence.kept:.2f} ({evidence.low:.2f} to {evidence.high:.2f})"


def more(positive: Any, signed: Any) -> bool | None:
    """Whether more is kept; None where the intervals of the shares kept overlap."""
    return True if positive.low > signed.high else False if positive.high < signed.low else None


if __name__ == "__main__":
    main()
