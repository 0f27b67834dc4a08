"""The training example: its gradients are those of its losses, it learns, and it says what it needs."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

import numpy as np
import pytest

from nbconv.examples import train_digits as program
from tests.helpers import Array, rng_for


def tiny(dtype: Any = np.float64) -> tuple[Array, Array]:
    rng = rng_for("digits")
    return rng.random((6, 8, 8, 1)).astype(dtype), rng.integers(0, 10, 6)


def classifier(rng: np.random.Generator) -> list[Array]:
    draw = program.draw
    return [*draw(rng, (32, 1, 3, 3)), *draw(rng, (64, 32, 3, 3)), *draw(rng, (10, 256, 1, 1))]


def autoencoder(rng: np.random.Generator) -> list[Array]:
    shapes = [((24, 1, 4, 4), False), ((8, 24, 4, 4), False), ((8, 24, 4, 4), True), ((24, 1, 4, 4), True)]
    return [array for shape, transposed in shapes for array in program.draw(rng, shape, transposed)]


@pytest.mark.parametrize(
    ("step", "network"), [(program.classifier_step, classifier), (program.autoencoder_step, autoencoder)]
)
def test_gradients_are_those_of_the_loss(step: Any, network: Any) -> None:
    images, labels = tiny()
    targets = labels if network is classifier else images
    rng = rng_for(network.__name__)
    parameters = [p.astype(np.float64) + 0.01 for p in network(rng)]
    _, grads = step(parameters, images, targets)
    width = 1e-5
    for p, grad in zip(parameters, grads, strict=True):
        assert grad.shape == p.shape
        for place in rng.choice(p.size, min(4, p.size), replace=False):
            before = p.flat[place]
            p.flat[place] = before + width
            above, _ = step(parameters, images, targets)
            p.flat[place] = before - width
            below, _ = step(parameters, images, targets)
            p.flat[place] = before
            np.testing.assert_allclose((above - below) / (2 * width), grad.flat[place], 1e-5, 1e-8)


def test_a_classifier_learns_what_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = tiny(np.float32)
    shown = images[:4].repeat(30, axis=0), labels[:4].repeat(30)
    assert program.train_classifier(shown, shown, 4, 0) == 1.0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("accuracy" in line for line in lines)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert program.main([]) == 2
    assert "pip install 'nbconv[demo]'" in capsys.readouterr().err


def test_reaches_its_goals_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    """98 % of the held-out digits, and an autoencoder below its stated error, within a minute."""
    try:
        importlib.import_module("sklearn")
    except ImportError:
        if os.environ.get("NBCONV_REQUIRE_SKLEARN") == "1":
            raise
        pytest.skip("scikit-learn is not installed")
    started = time.perf_counter()
    assert program.main([]) == 0
    assert time.perf_counter() - started < 60
    out = capsys.readouterr().out
    assert out.count("held-out accuracy") == out.count("held-out error") == program.EPOCHS
