"""Which explanation can be trusted: metrics over methods on the user's own model and data.

Everything runs batched on the session that serves the model; targets are fixed from the clean inputs.
"""
