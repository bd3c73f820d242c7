"""FluxFlow Experiments: train text-to-image models in stages, resume them bit for bit."""

__version__ = "0.1.0"
