"""Configurations checked."""

from fluxflow_exp.config.compose import resolve
from fluxflow_exp.config.overrides import compose_config
from fluxflow_exp.preflight.check import problems


def check(*overrides: str, stage: str = "quickstart", begun: bool = False) -> list[str]:
    """What is wrong with a configuration."""
    return problems(resolve(compose_config([f"stage={stage}", "hardware=cpu", *overrides])), begun=begun)
