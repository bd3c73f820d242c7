"""The stage file that a configuration of FluxFlow Training becomes, in parts."""

from fluxflow_exp.convert.steps import Node


class Translated:
    def __init__(self) -> None:
        self.name = ""  # of the stage; the run takes it over
        self.overrides: list[Node] = []  # of the defaults list
        self.steps: dict[str, Node] = {}
        self.top: Node = {}
        self.machine: list[str] = []  # overrides that belong to the command line: they say where, not what

    def body(self) -> Node:
        choices: list[Node] = []
        steps: Node = {}
        for key, step in self.steps.items():
            for player, (optimizer, scheduler) in step["choices"].items():
                choices.append({f"/optimizer@stage.steps.{key}.optimizers.{player}": optimizer})
                choices.append({f"/scheduler@stage.steps.{key}.schedulers.{player}": scheduler})
            steps[key] = {k: v for k, v in step.items() if k not in ("choices", "kind") and v not in ({}, [])}
        spade = any(step["trainer"].get("spade", "never") != "never" for step in self.steps.values())
        stage = {"name": self.name, "spade": spade, "steps": steps}
        return {"defaults": [*choices, *self.overrides, "_self_"], "stage": stage, **self.top}
