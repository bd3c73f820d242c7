"""What a study will cost, in words."""

from pathlib import Path

from fluxflow_exp.study.cost import ArmCost, said
from tests.study.test_spec import FIVE, study


def test_one_seed_is_said_to_judge_nothing(tmp_path: Path) -> None:
    costs = {arm: ArmCost(0.5, 0.1, 1_000_000, 0.2, 1.0) for arm in ("large", "small")}
    lines = said(study(tmp_path, FIVE, "seeds=1"), costs, dict.fromkeys(costs, 1), "hours")
    assert lines[0] == "Cost: 2 runs, about 1.0 h, 0.20 GiB of disk"
    assert lines[1] == "  large: 1 run, 30 min a run, 1.00 M parameters, 0.2 TFLOP a run"
    assert "with one seed a difference may be chance" in lines[-1]
    two = said(study(tmp_path, FIVE), costs, dict.fromkeys(costs, 2), "hours")
    assert len(two) == 3
    assert two[1].startswith("  large: 2 runs, ")
