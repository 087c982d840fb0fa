"""Lets `python -m onnxplain` stand for the `onnxplain` command."""

from onnxplain.cli import main

if __name__ == "__main__":
    main()
