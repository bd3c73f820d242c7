"""Imported once by the server that test children are forked from: what each of them would else compose for its card."""

from fluxflow_exp.card.parents import shipped

for stage in ("quickstart", "vae"):
    shipped(stage)
