"""`python -m fluxflow_exp.generate`."""

import sys

from fluxflow_exp.generate.command import cli

if __name__ == "__main__":
    sys.exit(cli())
