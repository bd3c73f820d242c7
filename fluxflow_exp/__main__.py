"""`python -m fluxflow_exp`: the training command."""

from fluxflow_exp.main import cli

cli()
