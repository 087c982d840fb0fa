"""Rewritten graph -> arrays: onnxruntime, or the reference evaluator where exactness matters more than time."""
