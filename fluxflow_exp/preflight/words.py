"""All that is wrong with a command's words: those that cannot be composed, and what the others would be refused for."""

from fluxflow_exp.config.overrides import takeable, values_of
from fluxflow_exp.errors import UserError
from fluxflow_exp.preflight import check


def problems(words: list[str], *, here: bool, config_dir: str | None = None) -> list[str]:
    """One line for each thing wrong; empty when a run with these words can begin. `here`: on this machine."""
    try:
        values = values_of(words, config_dir=config_dir)
        return check.problems(values, here=here and not values["validate"])
    except UserError as error:
        found = [str(line) for line in error.args]
    rest = takeable(words, config_dir=config_dir)
    return found if rest is None else found + problems(rest, here=here, config_dir=config_dir)
