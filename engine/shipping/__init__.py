"""Explanations as ONNX files: one self-contained graph that answers and explains, on any runtime.

What Python adds up outside the session (a path, noisy copies) stands inside the graph here, in a loop that
bounds its memory, so the file needs nothing but a runtime.
"""
