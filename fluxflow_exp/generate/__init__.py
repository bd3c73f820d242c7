"""Pictures from prompts; `cli` is what installed scripts call."""

from fluxflow_exp.generate.command import cli as cli
