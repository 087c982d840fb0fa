"""Training without a framework: one step of it is one more rewritten graph, which any onnxruntime runs.

Retraining is what remove-and-retrain needs, so it has to work from the deployed file alone.
"""
