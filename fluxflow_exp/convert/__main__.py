"""`python -m fluxflow_exp.convert`."""

from fluxflow_exp.convert.command import cli

if __name__ == "__main__":
    cli()
