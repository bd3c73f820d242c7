"""`python -m fluxflow_exp.convert`."""

import sys

from fluxflow_exp.convert.command import cli

if __name__ == "__main__":
    sys.exit(cli())
