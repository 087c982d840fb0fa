"""Explain the answers of any ONNX model, on the onnxruntime that serves it."""

__version__ = "0.1.0"
