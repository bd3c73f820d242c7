"""FluxFlow Experiments: train text-to-image models in stages, resume them bit for bit."""

from fluxflow_exp.machine import starting

starting.listen()  # here, as the imports of a command are what a Ctrl-C in its first seconds meets

__version__ = "0.1.0"
