"""The speed comparison's plumbing, on one tiny layer: what is wrong is refused, what is measured is written down."""

import json
import os

import numpy as np
import pytest

from bench import compare, limits, peers, race, vocoder
from bench.kinds import ENGINES, GOALS, KINDS, RIVALS, Goal, chosen
from bench.layers import Measured, check, judge
from bench.rows import Row, draw

CASE = KINDS["tiny"].cases[0]


def measured(**seconds):
    return Measured("tiny", CASE, {"layer": 1.0, "function": 4.0, "peak": 0.5, **seconds}, 0.5, "peak")


def test_command_checks_times_and_writes(tmp_path, capsys):
    out, before = tmp_path / "new" / "run.json", race.usable_cores()
    assert compare.main(["--kinds", "tiny", "--quick", "--seconds", "0", "--engines", "--out", str(out)]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    (shape,) = content["kinds"]["tiny"]
    assert set(shape["seconds"]) == {"layer", "function", "function KIO", "peak"}
    assert min(shape["seconds"].values()) > 0
    assert set(shape["errors"]) == {"layer", "function", "function KIO"}
    assert content["rows"] == []  # every goal of this kind is about a peer
    assert content["machine"]["threads"] == 1
    assert "tiny" in capsys.readouterr().out
    assert race.usable_cores() == before


def test_rows_of_a_peer_are_judged():
    goal = Goal("tiny", ("tiny",), "PyTorch", mean=2.0, least=1.5)
    row = judge(goal, [measured(torch=3.0, **{"torch channels_last": 2.5})])
    assert row is not None
    assert (row.ratios, row.met, row.goal) == ({"tiny": 2.5}, True, "mean >= 2, each >= 1.5")
    assert not judge(goal, [measured(torch=1.9)]).met
    assert not judge(goal, [measured(torch=9.0), measured(torch=1.4)]).met
    assert judge(goal, [measured()]) is None


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), np.zeros((2, 2)), np.full((2, 2), np.nan)])
def test_wrong_results_are_refused(wrong):
    assert check("ours", CASE, np.ones((2, 2)), np.ones((2, 2)), 1e-6) == 0
    with pytest.raises(AssertionError, match="ours"):
        check("ours", CASE, wrong, np.ones((2, 2)), 1e-6)


def test_processes_answer_and_report_errors():
    with race.alone(1, race.usable_cores()) as process:
        results = process.enter(limits.enter_layer, CASE)
        assert results["tiny"].shape == (1, 16, 8)
        assert process.batch("tiny", 2) > 0
        assert process.run(os.getpid) != os.getpid()
        with pytest.raises(RuntimeError, match="KeyError"):
            process.batch("nobody", 1)


def test_vocoder_agrees_with_its_definition():
    mel, weights = vocoder.weights_of(frames=2)
    expected = vocoder.walk(vocoder.Oracle(weights), mel, len(weights))
    assert expected.shape == (1, 512, 1)
    ours = vocoder.enter("nbconv", 2, 1)["nbconv"]
    assert np.abs(ours.call() - expected).max() <= vocoder.TOLERANCE * np.abs(expected).max()


def test_kinds_name_what_exists():
    contestants = {name for names in RIVALS.values() for name in names}
    assert contestants <= {"peak", "torch", "torch channels_last", "torch NLC", "onnxruntime", "jax"}
    for goal in GOALS:
        assert goal.rival in RIVALS
        assert set(goal.kinds) <= set(KINDS)
        assert goal.mean or goal.least
    for kind in KINDS.values():
        assert set(kind.engines) <= set(ENGINES)
        assert 1 <= len(chosen(kind, quick=True)) <= kind.quick
        assert len({case.name for case in kind.cases}) == len(kind.cases)


def test_padding_that_engines_lack_is_put_into_the_input():
    by_name = {case.name: case for case in KINDS["dense 1-D"].cases}
    reflected, causal = peers.Geometry(by_name["codec first"]), peers.Geometry(by_name["wavenet layer"])
    x = np.ones((1, 100, 2), np.float32)
    assert reflected.input(x, any_pads=True).shape == (1, 106, 2)
    assert (causal.input(x, any_pads=True).shape, causal.input(x).shape) == ((1, 100, 2), (1, 164, 2))


def test_picture_needs_ratios(tmp_path):
    row = Row("memory", "", "", "", True)
    assert draw(tmp_path / "run.png", {"cpu": "a", "threads": 1}, [row]).startswith("no picture")
