"""Train two small networks on images of handwritten digits, with NumPy and manual backward passes only.

    python -m nbconv.examples.train_digits

The first tells the digits apart: two convolutions with ReLU, the second with stride 2, a pooling, and a linear head
that is a convolution with a kernel of 1x1. The second is an autoencoder: convolutions with stride 2 squeeze each image
from 64 numbers into 32, transposed convolutions draw it again. The images are scikit-learn's `digits`: 1797 of 8x8
pixels, which ship in its wheel; a fifth of them, drawn by a fixed seed, is held out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import nbconv

__all__ = ["main", "train_autoencoder", "train_classifier"]

Array = npt.NDArray[Any]
Step = Callable[[list[Array], Array, Array], tuple[float, list[Array]]]

ACCURACY = 0.98  # of the held-out images, which the classifier must reach
ERROR = 0.012  # mean squared error of a held-out pixel, whose range is [0, 1], which the autoencoder must reach
BATCH = 24
EPOCHS = 20
SMOOTHING = 0.1  # of the probability that the classifier is taught to give to all digits alike
THREADS = 1  # a batch of such images is done before a second thread has woken


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both networks and print how they do; the exit status tells whether both reached their goals."""
    parser = argparse.ArgumentParser(prog="python -m nbconv.examples.train_digits", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="rounds through the images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of all weights (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        images, labels = load_digits()
    except ImportError:
        print("train_digits needs scikit-learn for its images: pip install 'nbconv[demo]'", file=sys.stderr)
        return 2
    order = np.random.default_rng(options.seed).permutation(len(images))
    held_out, rest = np.split(order, [len(images) // 5])
    train, test = (images[rest], labels[rest]), (images[held_out], labels[held_out])
    started = time.perf_counter()
    with nbconv.num_threads(THREADS):
        accuracy = train_classifier(train, test, options.epochs, options.seed)
        error = train_autoencoder(train[0], test[0], options.epochs, options.seed)
    print(f"accuracy {100 * accuracy:.2f} % of {len(held_out)} held-out images, goal {100 * ACCURACY:.0f} %")
    print(f"autoencoder's error {error:.4f} on them, goal {ERROR}")
    print(f"{time.perf_counter() - started:.1f} s")
    return 0 if accuracy >= ACCURACY and error <= ERROR else 1


def load_digits() -> tuple[Array, Array]:
    """Load images (N, 8, 8, 1), float32 from 0 to 1, and labels (N,)."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return (digits.images[..., None] / 16).astype(np.float32), digits.target


# ---- the classifier ------------------------------------------------------------------------------------------------


def train_classifier(train: tuple[Array, Array], test: tuple[Array, Array], epochs: int, seed: int) -> float:
    """Train on (images, labels); print each epoch's accuracy on `test` and return the last one.

    Images are (N, 8, 8, 1), labels (N,) from 0 to 9.
    """
    rng = np.random.default_rng(seed)
    parameters = [*draw(rng, (32, 1, 3, 3)), *draw(rng, (64, 32, 3, 3)), *draw(rng, (10, 256, 1, 1))]

    def accuracy() -> float:
        return float(np.mean(classify(parameters, test[0])[-1].argmax(axis=-1) == test[1]))

    def report(epoch: int, loss: float) -> str:
        return f"loss {loss:.4f}  held-out accuracy {100 * accuracy():6.2f} %"

    run_epochs("classifier", classifier_step, parameters, train, epochs, rng, report)
    return accuracy()


def classify(parameters: list[Array], x: Array) -> tuple[Array, ...]:
    """Run the network; return what its backward pass needs: both ReLUs' results, pooled features, scores (N, 10)."""
    w1, b1, w2, b2, w3, b3 = parameters
    h1 = nbconv.conv2d(x, w1, b1, padding=1, activation="relu")  # (N, 8, 8, 32)
    h2 = nbconv.conv2d(h1, w2, b2, stride=2, padding=1, activation="relu")  # (N, 4, 4, 64)
    n = len(x)
    pooled = h2.reshape(n, 2, 2, 2, 2, 64).mean(axis=(2, 4)).reshape(n, 1, 1, 256)
    return h1, h2, pooled, nbconv.conv2d(pooled, w3, b3).reshape(n, 10)


def classifier_step(parameters: list[Array], x: Array, labels: Array) -> tuple[float, list[Array]]:
    """Give the mean cross entropy of a batch, with smoothed labels, and its gradient in every parameter.

    Notes
    -----
    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016, for the smoothing.
    """
    w1, _, w2, _, w3, _ = parameters
    h1, h2, pooled, scores = classify(parameters, x)
    n = len(x)
    scores = scores - scores.max(axis=1, keepdims=True)
    logarithms = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    wanted = np.full_like(scores, SMOOTHING / 10)
    wanted[np.arange(n), labels] += 1 - SMOOTHING
    loss = -float((wanted * logarithms).sum()) / n
    d_scores = (np.exp(logarithms) - wanted) / n
    head: Any = nbconv.conv2d_backward(d_scores.reshape(n, 1, 1, 10), pooled, w3)
    spread = np.broadcast_to(head.x.reshape(n, 2, 1, 2, 1, 64) / 4, (n, 2, 2, 2, 2, 64))
    second: Any = nbconv.conv2d_backward(spread.reshape(h2.shape) * (h2 > 0), h1, w2, stride=2, padding=1)
    first: Any = nbconv.conv2d_backward(second.x * (h1 > 0), x, w1, padding=1, needs=("weight", "bias"))
    return loss, [g for grads in (first, second, head) for g in (grads.weight, grads.bias)]


# ---- the autoencoder -----------------------------------------------------------------------------------------------


def train_autoencoder(train: Array, test: Array, epochs: int, seed: int) -> float:
    """Train on images (N, 8, 8, 1); print each epoch's error on `test` and return the last one."""
    rng = np.random.default_rng(seed)
    parameters = [
        *draw(rng, (24, 1, 4, 4)), *draw(rng, (8, 24, 4, 4)), *draw(rng, (8, 24, 4, 4), transposed=True),
        *draw(rng, (24, 1, 4, 4), transposed=True),
    ]  # fmt: skip

    def error() -> float:
        return float(np.mean((encode_and_decode(parameters, test)[-1] - test) ** 2))

    def report(epoch: int, loss: float) -> str:
        return f"loss {loss:.4f}  held-out error {error():.4f}"

    run_epochs("autoencoder", autoencoder_step, parameters, (train, train), epochs, rng, report)
    return error()


def encode_and_decode(parameters: list[Array], x: Array) -> tuple[Array, ...]:
    """Run the network; return all it computes, the drawn images (N, 8, 8, 1) last."""
    w1, b1, w2, b2, w3, b3, w4, b4 = parameters
    h1 = nbconv.conv2d(x, w1, b1, stride=2, padding=1, activation="relu")  # (N, 4, 4, 24)
    code = nbconv.conv2d(h1, w2, b2, stride=2, padding=1)  # (N, 2, 2, 8)
    h3 = nbconv.conv_transpose2d(code, w3, b3, stride=2, padding=1, activation="relu")  # (N, 4, 4, 24)
    return h1, code, h3, nbconv.conv_transpose2d(h3, w4, b4, stride=2, padding=1)


def autoencoder_step(parameters: list[Array], x: Array, target: Array) -> tuple[float, list[Array]]:
    """Give the mean squared error of a batch and its gradient in every parameter."""
    w1, _, w2, _, w3, _, w4, _ = parameters
    h1, code, h3, y = encode_and_decode(parameters, x)
    error = y - target
    how: dict[str, Any] = {"stride": 2, "padding": 1}
    fourth: Any = nbconv.conv_transpose2d_backward(error * (2 / error.size), h3, w4, **how)
    third: Any = nbconv.conv_transpose2d_backward(fourth.x * (h3 > 0), code, w3, **how)
    second: Any = nbconv.conv2d_backward(third.x, h1, w2, **how)
    first: Any = nbconv.conv2d_backward(second.x * (h1 > 0), x, w1, **how, needs=("weight", "bias"))
    return float(np.mean(error**2)), [g for grads in (first, second, third, fourth) for g in (grads.weight, grads.bias)]


# ---- training ------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, shape: tuple[int, ...], transposed: bool = False) -> tuple[Array, Array]:
    """Draw a weight of `shape`, with the variance that keeps ReLU networks at scale, and make a bias of zeros.

    Notes
    -----
    K. He et al., "Delving deep into rectifiers", 2015.
    """
    inputs, outputs = (shape[0], shape[1]) if transposed else (shape[1], shape[0])
    terms = inputs * shape[2] * shape[3] / (4 if transposed else 1)  # a stride of 2 leaves each output a quarter
    weight = rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / terms) ** 0.5)
    return weight, np.zeros(outputs, np.float32)


def run_epochs(
    name: str, step: Step, parameters: list[Array], data: tuple[Array, Array], epochs: int, rng: np.random.Generator,
    report: Callable[[int, float], str],
) -> None:  # fmt: skip
    """Train `parameters` in place, epoch by epoch, with Adam, its rate falling to nothing along a cosine."""
    x, targets = data
    batches = -(-len(x) // BATCH)
    update = adam(parameters)
    for epoch in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for batch in progress(f"{name} epoch {epoch + 1:2}/{epochs}", batches):
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            loss, grads = step(parameters, x[chosen], targets[chosen])
            update(grads, 4e-3 * (1 + np.cos(np.pi * (epoch + batch / batches) / epochs)) / 2)
            total += loss * len(chosen)
        print(f"{name} epoch {epoch + 1:2}/{epochs}  {report(epoch, total / len(x))}", flush=True)


def adam(parameters: list[Array]) -> Callable[[list[Array], float], None]:
    """Make a function (gradients, rate) that moves `parameters` in place.

    Notes
    -----
    D. Kingma and J. Ba, "Adam: a method for stochastic optimization", 2015.
    """
    means, squares = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    count = 0

    def update(grads: list[Array], rate: float) -> None:
        nonlocal count
        count += 1
        for p, grad, mean, square in zip(parameters, grads, means, squares, strict=True):
            mean += np.float32(0.1) * (grad - mean)
            square += np.float32(0.001) * (grad * grad - square)
            scale = np.sqrt(square / np.float32(1 - 0.999**count)) + np.float32(1e-8)
            p -= np.float32(rate / (1 - 0.9**count)) * mean / scale

    return update


def progress(title: str, steps: int) -> Iterator[int]:
    """Count to `steps` with a bar on the terminal, where there is one."""
    shown = sys.stderr.isatty()
    for i in range(steps):
        if shown:
            filled = 30 * (i + 1) // steps
            print(f"\r{title}  [{'#' * filled}{'.' * (30 - filled)}]", end="", file=sys.stderr, flush=True)
        yield i
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
