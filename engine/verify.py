"""Shows on the user's own model and data that the gradient is the derivative, or which node is to blame.

A deployed model is not the network that the tests know: another exporter, another runtime, operators of a
plug-in, numbers at kinks. What is promised of every result is therefore something that anybody can check
where it matters, before results are believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.graph.model import ModelSource
from onnxplain.engine.inputs import validate_feeds
from onnxplain.engine.loading import Model, load
from onnxplain.engine.session.batching import fixed_batch
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import ProviderSpec
from onnxplain.engine.verification import checks
from onnxplain.engine.verification.probe import Probe, Question
from onnxplain.engine.verification.report import VerifyReport

#: More samples than these show nothing new, and each costs a pass per direction.
SAMPLES = 4


def verify(
    model: ModelSource | Model,
    x: Any,
    *,
    target: Any = None,
    output: str | None = None,
    head: str | None = None,
    wrt: str | Sequence[str] | None = None,
    providers: str | Sequence[ProviderSpec] | None = None,
    threads: int | None = None,
    custom_ops: CustomOps | None = None,
    directions: int = 8,
    seconds: float = 30.0,
    seed: int = 0,
) -> VerifyReport:
    """Check gradients on a model and data, each promise by itself.

    The rows of the report:

    - ``gradient``: against central differences of the score along random directions, two step sizes each, in
      the model's own number format on its own provider. Directions on which the two disagree meet a kink or
      drown in rounding; they are set aside and counted, and enough others have to agree.
    - ``gradient in float64``: the same for the model in float64 on the reference evaluator, where that can
      run it in ``seconds``. This one tells errors of 1e-5, the first one those of a few percent.
    - ``completeness``: the full-gradient identity closes.
    - ``determinism``: run again and rewritten again, the same bytes.
    - ``samples``: alone and in a batch, the same gradient.
    - ``outputs``: the rewritten graph returns what the file as it is returns.
    - ``provider NAME``: the same gradient on every other provider at hand and on the reference evaluator.

    A row that fails names the nodes that disagree, the first one first: rules are checked one by one against
    finite differences of their node alone, values node by node with the same operands.

    Models with quantised activations are checked through their float form, as rounding has no slope.

    Args:
        model: Path, bytes, proto or loaded model.
        x: Samples that the model is meant for, batch first, or ``{input name: array}``; the first few are used.
        target, output, head, wrt, providers, threads, custom_ops: As for :func:`onnxplain.explain`.
        directions: Random directions per check of the gradient, at least 3.
        seconds: What the reference evaluator may take for one check, and a search for a node.
        seed: Of the directions.

    Returns:
        A report; ``report.ok`` says whether nothing failed and the gradient was shown to be the derivative.

    Raises:
        InputError: Wrong names, shapes, types, NaN or infinity.
        OptionError: Too few directions, or no time at all.
        UnsupportedNodeError: A node between input and target has no sound rule.
        BlockedGradientError: No differentiable path leads from the input to the target.
        SessionError: The runtime cannot run the rewritten graph on these samples.
    """
    if directions < 3:
        raise OptionError(f"directions={directions} cannot show anything; give at least 3")
    if not seconds > 0:
        raise OptionError(f"seconds={seconds} is not possible; give a positive number")
    loaded = load(model, providers=providers, threads=threads or 0, custom_ops=custom_ops)
    how = {
        "output": output, "head": head, "wrt": wrt, "providers": providers, "threads": threads,
        "custom_ops": custom_ops,
    }  # fmt: skip
    probe = Probe(loaded, Question(_named(loaded, x), target, how))
    probe.question = question = _few(probe, validate_feeds(probe.question.feeds, probe.explainer.declared))
    first = probe.start()
    probe.question = question = question.settled(first)
    subject = checks.Subject(loaded, question, probe, directions, seed, seconds)
    rows = [
        checks.slopes(subject),
        checks.exact_slopes(subject),
        checks.completeness(subject),
        checks.determinism(subject),
        checks.mixing(subject),
        checks.own_outputs(subject),
        *checks.providers(subject),
    ]
    provenance = {
        **first.provenance, "output": first.output, "head": first.head, "samples": len(first), "seed": seed,
        "target": None if first.target is None else np.asarray(first.target).tolist(),
        "wrt": list(first.attributions), "blocked": list(first.blocked), "directions": directions,
    }  # fmt: skip
    return VerifyReport(loaded.source.name, tuple(rows), provenance)


def _named(model: Model, x: Any) -> dict[str, Any]:
    if isinstance(x, Mapping):
        return dict(x)
    names = [v.name or "" for v in model.canonical.graph.inputs]
    if len(names) != 1:
        raise InputError(f"the model has {len(names)} inputs ({', '.join(names)}); give a dictionary of arrays by name")
    return {names[0]: x}


def _few(probe: Probe, feeds: dict[str, np.ndarray[Any, Any]]) -> Question:
    """The first samples, as many as the model takes at a time where that is fixed."""
    batched = probe.explainer.batched
    question = Question(feeds, probe.question.target, probe.question.how)
    count = min((len(feeds[n]) for n in batched), default=1)
    if isinstance(question.target, (list, np.ndarray)) and np.asarray(question.target).dtype.kind in "iu":
        question = Question(feeds, np.asarray(question.target), question.how)
    wanted = fixed_batch(probe.explainer.source.canonical, frozenset(batched)) or SAMPLES
    return question.only(range(wanted), batched) if count > wanted else question
