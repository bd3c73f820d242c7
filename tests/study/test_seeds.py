"""What is said after each look of `seeds: auto`."""

from fluxflow_exp.study.seeds import _told
from fluxflow_exp.study.sequential import decide

WIDE, DEEP = [1.0, 1.01, 0.99], [0.0, 0.012, 0.024]


def test_each_arm_has_a_line_and_what_the_budget_pays_for_is_said() -> None:
    first, *lines = _told(decide({"wide": WIDE, "deep": DEEP}, smallest_difference=0.02), 3, 17).splitlines()
    assert first == "After 3 seeds:"
    assert [line.split()[:2] for line in lines] == [["wide", "is"], ["deep", "is"], ["about", "13"], ["the", "budget"]]
    assert lines[-1] == "  the budget pays for 20"
    one = _told(decide({"deep": DEEP}, smallest_difference=0.02), 3, None)
    assert one.startswith("After 3 seeds: deep is undecided")
    assert one.endswith("; about 11 seeds in all")
    assert "\n" not in one
    assert _told(decide({"wide": WIDE}, seeds_left=2), 3, 2) == "After 3 seeds: every arm is decided"
