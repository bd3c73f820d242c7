"""Options of a study's evaluations: wrong ones are refused before anything is trained."""

import pytest

from fluxflow_exp.study.evaluating import acting, names, problems

ARMS = {"a": {"data": {"img_size": 32}}}


@pytest.mark.parametrize(
    ("words", "metrics", "said"),
    [
        (
            ["--imags=4"],
            ["psnr"],
            "evaluate: unrecognized arguments: --imags=4. python -m fluxflow_exp.evaluate --help",
        ),
        (["--images=many"], ["psnr"], "evaluate: argument --images: invalid int value: 'many'. "),
        (["--images=0"], ["psnr"], "evaluate: --images must be at least 1, not 0"),
        (["--images", "4"], ["psnr"], "evaluate: 4: each option is one word, as --images=4"),
        (["--metrics=psnr"], ["psnr"], "evaluate: --metrics: outcome names them"),
        (["--guidance=3"], ["fd@3"], "evaluate: --guidance: outcome names it, as fd@3"),
        (["--steps=4"], ["psnr"], "evaluate: --steps=4 acts on fd, kid, "),
        (["--images=4"], [], "evaluate: every outcome is measured while training"),
        ([], ["clip_score@3"], r"outcome clip_score: evaluate: [--clip=NAME_OR_FOLDER] says by which CLIP"),
        ([], ["ms_ssim"], "outcome ms_ssim: needs images of 176 pixels a side, and those of arm a have 32"),
    ],
)
def test_what_the_command_would_refuse_after_training_is_refused_before(
    words: list[str], metrics: list[str], said: str
) -> None:
    (problem,) = problems(words, metrics, ARMS)
    assert problem.startswith(said)


def test_options_that_act_are_good_and_each_measure_is_given_its_own() -> None:
    words = ["--images=9", "--steps=4", "--within=, (.*) style$", "data.n_images=4"]
    assert problems(words, ["retrieval_1@3", "psnr"], ARMS) == []
    assert problems([], [], ARMS) == []
    assert acting(words, names(["psnr"])) == ["--images=9", "data.n_images=4"]
    assert acting(words, names(["fd@1", "fd@3"])) == ["--images=9", "--steps=4", "data.n_images=4"]
    assert acting(words, names(["retrieval_1@3"])) == words
