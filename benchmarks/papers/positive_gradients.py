"""Recipe (d), positive aggregation and propagation (2012.00362): do positive-only variants forget the model?

Run as ``python benchmarks/papers/positive_gradients.py ASSETS``. Signed and positive-only forms of the same methods
under both sanity checks on a trained net. The paper finds that positive-only ones keep more of their map when
weights are drawn anew and when another class is asked for.
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
    "propagation": (("gradient", {"reduction": "sum"}), ("guided_backprop", {"reduction": "sum"})),
    "LRP": (("lrp", {"composite": "epsilon_alpha2_beta1"}), ("lrp", {"composite": "epsilon_plus"})),
}


def main() -> None:
    """Similarities of both forms."""
    asked = request(__doc__ or "", limit=40)
    x, _ = fashion_mnist(asked)
    rows, claims, panels, numbers = [], {}, {}, {}
    net = model(asked, "fmnist-vgg-small")
    for title, forms in PAIRS.items():
        means: dict[str, dict[str, float]] = {}
        for label, (name, options) in zip(("signed", "positive only"), forms, strict=True):
            report = sanity(net, x, methods={name: options}, checks=("cascading", "classes"), draws=2, seed=asked.seed)
            means[label] = {}
            for check in ("cascading", "classes"):
                evidence = report.result(name, check).evidence("spearman_absolute")
                means[label][check] = float(np.mean(list(evidence.steps.values())))
                if check == "cascading":
                    steps = np.arange(len(evidence.steps))
                    panels.setdefault(title, {})[label] = (steps, np.array(list(evidence.steps.values())))
            rows.append([title, label, name, means[label]["cascading"], means[label]["classes"], report.verdicts[name]])
        numbers[title] = means
        for check, words in (("cascading", "weights are drawn anew"), ("classes", "another class is asked for")):
            kept = means["positive only"][check] > means["signed"][check]
            claims[f"{title}: the positive-only form keeps more when {words}"] = kept
    columns = ["method", "form", "name", "similarity, cascading", "similarity, classes", "verdict"]
    finish(asked, "positive_gradients", columns, rows, claims, numbers)
    figure(asked, "positive_gradients", panels, "blocks drawn anew, from the output")


if __name__ == "__main__":
    main()
