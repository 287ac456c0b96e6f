"""Workshop for small language models: raw text to a file that runs on a phone."""

__version__ = "0.1.0"
