"""The kinds of shapes that `compare` measures, and the goals of its table, as data.

A kind is a list of layers of real networks: from ``tests/cases.py`` by name, and more of the same networks here. A goal
is one row of the table: who enters, against whom, over which kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cases import PERF_CASES, Case

NLC, EITHER = "PyTorch NLC", "PyTorch"
RIVALS = {  # the fastest of these counts
    "peak": ("peak",),
    NLC: ("torch NLC",),
    EITHER: ("torch", "torch channels_last"),
    "PyTorch channels-first": ("torch",),
    "PyTorch channels_last": ("torch channels_last",),
    "PyTorch, ONNX Runtime": ("torch", "torch channels_last", "onnxruntime"),
    "PyTorch, ONNX Runtime, JAX": ("torch", "torch channels_last", "onnxruntime", "jax"),
}
ENGINES = ("torch", "onnxruntime", "jax")  # those that a user may install beside nbconv
MOST_SLOW_MACS = 3_000_000_000  # above this a layer is left to runs that are not quick


@dataclass(frozen=True)
class Kind:
    """Shapes that are judged together, and the engines that they are run on; `quick`: how many make a quick run."""

    cases: tuple[Case, ...]
    engines: tuple[str, ...]
    functions: bool = False  # also the functions, which pack the weight in the call
    quick: int = 3


@dataclass(frozen=True)
class Goal:
    """A row: time of the fastest rival over that of the entrant, geometric mean over the shapes and least of them."""

    title: str
    kinds: tuple[str, ...]
    rival: str
    mean: float | None = None
    least: float | None = None
    entrant: str = "layer"
    only: Callable[[Case], bool] | None = None

    @property
    def text(self) -> str:
        mean = None if self.mean is None else f"mean >= {self.mean:.4g}"
        least = None if self.least is None else f"each >= {self.least:.3g}"
        return ", ".join(filter(None, (mean, least)))


def _listed(*names: str) -> list[Case]:
    by_name = {case.name: case for case in PERF_CASES}
    return [by_name[name] for name in names]


def _case(name: str, op: str, x_shape: tuple[int, ...], weight_shape: tuple[int, ...], **params: Any) -> Case:
    return Case(op, x_shape, weight_shape, params, name=name)


def _conv1d(name: str, length: int, c_in: int, c_out: int, kernel: int, **params: Any) -> Case:
    weight = (c_out, c_in // params.get("groups", 1), kernel)
    return _case(name, "conv1d", (1, length, c_in), weight, **params)


def _conv2d(name: str, size: int, c_in: int, c_out: int, kernel: int, **params: Any) -> Case:
    weight = (c_out, c_in // params.get("groups", 1), kernel, kernel)
    return _case(name, "conv2d", (1, size, size, c_in), weight, **params)


def _up1d(name: str, length: int, c_in: int, c_out: int, kernel: int, **params: Any) -> Case:
    return _case(name, "conv_transpose1d", (1, length, c_in), (c_in, c_out, kernel), **params)


def _up2d(name: str, size: int, c_in: int, c_out: int, kernel: int, **params: Any) -> Case:
    return _case(name, "conv_transpose2d", (1, size, size, c_in), (c_in, c_out, kernel, kernel), **params)


_TORCH, _TORCH_ORT = ("torch",), ("torch", "onnxruntime")

# In a quick run the first few of each kind are measured.
KINDS: dict[str, Kind] = {
    "dense 1-D": Kind(
        (
            *_listed(
                "vocoder block 2", "dilated", "whisper 1", "vocoder block 1", "vocoder block 3", "vocoder block 4"
            ),
            *_listed("vocoder pre", "bulk", "seed", "wide", "codec first", "wavenet layer", "tcn level"),
            *_listed("denoiser deep", "wav2vec2 second", "whisper 2", "vad block"),
            _conv1d("upscaler 1", 1000, 64, 128, 3, padding=1),
            _conv1d("upscaler 3", 4000, 64, 128, 3, padding=1),
            _conv1d("dac pre", 86, 1024, 1536, 7, padding=3),
            _conv1d("dac unit", 5504, 192, 192, 7, padding=27, dilation=9),
            _conv1d("encodec unit", 3000, 64, 32, 3, padding=((2, 0),), padding_mode="reflect"),
        ),
        ENGINES,
        functions=True,
    ),
    "dense 2-D": Kind(
        (
            *_listed("resnet layer 1", "resnet layer 3", "resnet down", "resnet layer 2", "resnet layer 4", "unet top"),
            *_listed("espcn last"),
            _conv2d("unet deep", 32, 512, 512, 3, padding=1),
            _conv2d("espcn middle", 256, 64, 32, 3, padding=1),
            _conv2d("yolo early", 160, 16, 16, 3, padding=1),
            _conv2d("yolo late", 40, 64, 64, 3, padding=1),
            _conv2d("ocr head", 160, 96, 24, 3, padding=1),
        ),
        ENGINES,
    ),
    "pointwise": Kind(
        (
            *_listed("vocos pointwise", "resnet pointwise", "mobilenet narrow", "resnet shortcut"),
            _conv1d("vocos back", 500, 1536, 512, 1),
            _conv1d("wavenet skip", 16000, 128, 128, 1),
            _conv1d("denoiser gate", 1012, 192, 384, 1),
            _conv1d("dac mix", 5504, 192, 192, 1),
            _conv2d("resnet expand", 56, 64, 256, 1),
            _conv2d("mobilenet last", 7, 320, 1280, 1),
        ),
        ENGINES,
    ),
    "transposed 1-D": Kind(
        (
            *_listed("vocoder up 1", "dac up", "vocoder up 3", "vocoder up 2", "vocoder up 4", "codec up"),
            _up1d("dac up 2", 688, 768, 384, 16, stride=8, padding=4),
            _up1d("dac up 3", 5504, 384, 192, 8, stride=4, padding=2),
            _up1d("denoiser up", 252, 384, 192, 8, stride=4),
        ),
        _TORCH_ORT,
    ),
    "transposed 2-D": Kind(
        (
            *_listed("unet up", "ocr up 1"),
            _up2d("dcgan 3", 16, 256, 128, 4, stride=2, padding=1),
            _up2d("unet up, last", 128, 128, 64, 2, stride=2),
            _up2d("dcgan 1", 4, 1024, 512, 4, stride=2, padding=1),
        ),
        _TORCH_ORT,
    ),
    "depthwise": Kind(
        (
            *_listed("vocos depthwise", "mobilenet wide", "mobilenet deep", "mimi up"),
            _conv1d("vocos depthwise, 100", 100, 512, 512, 7, padding=3, groups=512),
            _conv2d("mobilenet large", 56, 144, 144, 3, padding=1, groups=144),
            _conv2d("mobilenet small", 7, 960, 960, 3, padding=1, groups=960),
            _conv2d("convnext", 56, 96, 96, 7, padding=3, groups=96),
        ),
        _TORCH_ORT,
    ),
    "grouped": Kind(
        (
            *_listed("resnext block"),
            _conv1d("discriminator 2", 4096, 128, 128, 41, stride=2, padding=20, groups=4),
            _conv2d("resnext deep", 14, 512, 512, 3, padding=1, groups=32),
            _conv1d("discriminator 3", 2048, 128, 256, 41, stride=2, padding=20, groups=16),
            _conv1d("discriminator 4", 1024, 256, 512, 41, stride=4, padding=20, groups=16),
            _conv1d("speech, 4 groups", 2000, 256, 256, 5, padding=2, groups=4),
            _conv2d("resnext down", 56, 256, 256, 3, stride=2, padding=1, groups=32),
        ),
        _TORCH_ORT,
    ),
    "few channels": Kind(
        (
            *_listed("vocoder post", "resnet stem", "denoiser last", "denoiser first", "mobilenet stem", "yolo stem"),
            *_listed("espcn first", "wav2vec2 first", "vad spectrum", "codec last", "ocr up 2"),
            _conv1d("wavenet first", 16000, 1, 128, 1),
            _conv1d("dac last", 44032, 96, 1, 7, padding=3),
            _conv2d("unet last", 256, 64, 2, 1),
            _up1d("inverse STFT", 400, 1026, 1, 1024, stride=256),
        ),
        _TORCH_ORT,
    ),
    "long kernel": Kind(
        (
            *_listed("wav2vec2 position"),
            _conv1d("wav2vec2, 10 s", 499, 768, 768, 128, padding=64, groups=16),
        ),
        _TORCH_ORT,
        quick=1,
    ),
    "tiny": Kind((_conv1d("tiny", 16, 8, 8, 3, padding=1),), _TORCH, functions=True),
}


def _held_to_peak(case: Case) -> bool:
    return min(case.x_shape[-1], case.c_out) >= 32 and 2 * case.macs > 20_000_000


def _big_weight(case: Case) -> bool:
    return case.name == "dac up"


def _one_dimension(case: Case) -> bool:
    return case.ndim == 1 and not case.transposed


_DENSE, _UP = ("dense 1-D", "dense 2-D"), ("transposed 1-D", "transposed 2-D")
_ALL = "PyTorch, ONNX Runtime, JAX"

GOALS: tuple[Goal, ...] = (
    Goal("dense conv1d, C >= 32, > 20 MFLOP", ("dense 1-D",), "peak", 0.95, 0.90, only=_held_to_peak),
    Goal("dense conv1d", ("dense 1-D",), NLC, 1.9, 1.1),
    Goal("dense conv1d, conv2d", _DENSE, _ALL, 1.02, 0.93),
    Goal("pointwise", ("pointwise",), "PyTorch channels_last", 2.0),
    Goal("transposed 1-D, 2-D", _UP, EITHER, 1.3, 0.95),
    Goal("transposed, big weight", ("transposed 1-D",), EITHER, least=3.0, only=_big_weight),
    Goal("transposed 1-D", ("transposed 1-D",), NLC, 1.8),
    Goal("depthwise 1-D, 2-D", ("depthwise",), "PyTorch, ONNX Runtime", least=1.0),
    Goal("depthwise 1-D", ("depthwise",), NLC, 20.0, only=_one_dimension),
    Goal("grouped", ("grouped",), EITHER, 1.5),
    Goal("few inputs, few outputs", ("few channels",), EITHER, least=1.0),
    Goal("long kernels", ("long kernel",), EITHER, least=1.0),
    Goal("function", ("dense 1-D",), NLC, 1.6, entrant="function"),
    Goal("function, weight (K, C_in, C_out)", ("dense 1-D",), NLC, 1.6, entrant="function KIO"),
    # 2.5 and 4.5 us on a machine where PyTorch takes 4.6 and 9
    Goal("tiny call, layer", ("tiny",), "PyTorch channels-first", least=4.6 / 2.5),
    Goal("tiny call, function", ("tiny",), NLC, least=9 / 4.5, entrant="function"),
)


def chosen(kind: Kind, quick: bool) -> list[Case]:
    """Give the shapes of a kind, or the few of a quick run."""
    return [case for case in kind.cases if case.macs < MOST_SLOW_MACS][: kind.quick] if quick else list(kind.cases)
