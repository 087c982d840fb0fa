"""Metrics of explanations, one file each; the registry finds them.

A metric takes a :class:`~onnxplain.engine.evaluation.case.Case` (a method's explanations of some samples, and the
model as a function of altered inputs) and gives one value per sample.
"""
