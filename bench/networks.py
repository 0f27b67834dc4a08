"""Real networks as lists of layers, for counts and for timings.

Every list holds the convolutions of one network in the order they run, each with the shapes it meets there, N = 1. A
fully connected layer over channels is a convolution of one tap. What is not a convolution is left out: recurrent
layers, norms, pooling, gates, additions of branches. An activation stands with the convolution that it follows or
precedes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nbconv.geometry import ConvSpec, bind

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One convolution of a network: shapes and parameters, no data."""

    op: str
    x_shape: Shape
    weight_shape: Shape
    params: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = True
    before: str | None = None
    activation: str | None = None

    @property
    def output_shape(self) -> Shape:
        return bind(ConvSpec.of(self.op, **self.params), self.x_shape, self.weight_shape).output_shape


class Writer:
    """Writes layers down one after the other, each fed with what the last one gave; `shape` may be set by hand."""

    def __init__(self, *shape: int, **every: Any) -> None:
        self.shape: Shape = shape
        self.layers: list[Layer] = []
        self.every = every  # what all layers share: bias, padding_mode, an activation

    def conv(self, c_out: int, kernel: int, **params: Any) -> None:
        """Convolve; `padding` defaults to that which keeps the length at stride 1, for odd kernels."""
        dilation = params.get("dilation", 1)
        self._write("conv", c_out, kernel, {"padding": dilation * (kernel - 1) // 2, **self.every, **params})

    def up(self, c_out: int, kernel: int, stride: int, **params: Any) -> None:
        """Convolve transposed; `padding` defaults to that which gives `stride` times the length."""
        every = {key: value for key, value in self.every.items() if key != "padding_mode"}
        crop = {"padding": (kernel - stride) // 2, "stride": stride}
        self._write("conv_transpose", c_out, kernel, {**crop, **every, **params})

    def _write(self, op: str, c_out: int, kernel: int, params: dict[str, Any]) -> None:
        ndim, c_in, groups = len(self.shape) - 2, self.shape[-1], params.get("groups", 1)
        channels = (c_out, c_in // groups) if op == "conv" else (c_in, c_out // groups)
        own = {name: params.pop(name) for name in ("bias", "before", "activation") if name in params}
        layer = Layer(f"{op}{ndim}d", self.shape, (*channels, *[kernel] * ndim), params, **own)
        self.layers.append(layer)
        self.shape = layer.output_shape


# ---- sound ---------------------------------------------------------------------------------------------------------


def hifigan(channels: int = 512, frames: int = 100) -> list[Layer]:
    """HiFi-GAN V1 (512 channels) and V2 (128), from mel frames to samples."""
    net = Writer(1, frames, 80)
    net.conv(channels, 7)
    for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
        channels //= 2
        net.up(channels, kernel, rate, before="leaky_relu")
        for taps in (3, 7, 11):
            for dilation in (1, 3, 5):
                net.conv(channels, taps, dilation=dilation, before="leaky_relu")
                net.conv(channels, taps, before="leaky_relu")
    net.conv(1, 7, before="leaky_relu", activation="tanh")
    return net.layers


def hifigan_v3(frames: int = 100) -> list[Layer]:
    """HiFi-GAN V3: fewer blocks, one convolution each."""
    net = Writer(1, frames, 80)
    channels = 256
    net.conv(channels, 7)
    for rate, kernel in ((8, 16), (8, 16), (4, 8)):
        channels //= 2
        net.up(channels, kernel, rate, before="leaky_relu")
        for taps, dilations in ((3, (1, 2)), (5, (2, 6)), (7, (3, 12))):
            for dilation in dilations:
                net.conv(channels, taps, dilation=dilation, before="leaky_relu")
    net.conv(1, 7, before="leaky_relu", activation="tanh")
    return net.layers


def upscaler(length: int = 1000, channels: int = 64, doublings: int = 3) -> list[Layer]:
    """Layers from C to 2C channels, whose output is viewed as twice the length of C channels."""
    net = Writer(1, length, channels, activation="relu")
    for _ in range(doublings):
        net.conv(2 * channels, 3, padding="same")
        net.shape = (1, 2 * net.shape[1], channels)
    return net.layers


def encodec_decoder(frames: int = 75) -> list[Layer]:
    """EnCodec's decoder at 24 kHz, one second: causal, without its LSTM."""
    net = Writer(1, frames, 128, padding_mode="reflect")
    net.conv(512, 7, padding=((6, 0),))
    channels = 512
    for rate in (8, 5, 4, 2):
        channels //= 2
        net.up(channels, 2 * rate, rate, padding=((0, rate),), before="elu")
        shortcut = net.shape
        net.conv(channels // 2, 3, padding=((2, 0),), before="elu")
        net.conv(channels, 1, before="elu")
        net.shape = shortcut
        net.conv(channels, 1)
    net.conv(1, 7, padding=((6, 0),), before="elu")
    return net.layers


def dac_decoder(frames: int = 86) -> list[Layer]:
    """DAC's decoder at 44.1 kHz, one second; its Snake activations are left out."""
    net = Writer(1, frames, 1024)
    channels = 1536
    net.conv(channels, 7)
    for rate in (8, 8, 4, 2):
        channels //= 2
        net.up(channels, 2 * rate, rate, padding=(rate + 1) // 2)
        for dilation in (1, 3, 9):
            net.conv(channels, 7, dilation=dilation)
            net.conv(channels, 1)
    net.conv(1, 7, activation="tanh")
    return net.layers


def mimi_upsampling(frames: int = 125) -> list[Layer]:
    """Mimi's depthwise upsampling, ten seconds."""
    net = Writer(1, frames, 512, bias=False)
    net.up(512, 4, 2, groups=512)
    return net.layers


def wavenet(length: int = 4000) -> list[Layer]:
    """WaveNet with 24 layers; its gates are left out."""
    net = Writer(1, length, 1)
    net.conv(128, 1)
    for i in range(24):
        dilation = 2 ** (i % 6)
        net.conv(256, 3, dilation=dilation, padding=((2 * dilation, 0),))
        net.shape = (1, length, 80)
        net.conv(256, 1)
        net.shape = (1, length, 128)
        net.conv(128, 1)
        net.conv(128, 1)
    net.conv(128, 1, before="relu")
    net.conv(30, 1, before="relu")
    return net.layers


def tcn(length: int = 784) -> list[Layer]:
    """TCN on sequences of pixels: eight levels, causal."""
    net = Writer(1, length, 1)
    for level in range(8):
        given = net.shape
        for _ in range(2):
            net.conv(25, 7, dilation=2**level, padding="causal", activation="relu")
        if given != net.shape:
            net.shape = given
            net.conv(25, 1)
    return net.layers


def denoiser() -> list[Layer]:
    """Demucs with 48 channels at 16 kHz, about four seconds of upsampled sound, without its LSTM and gates."""
    net = Writer(1, 64852, 1)
    widths = [48, 96, 192, 384, 768]
    for width in widths:
        net.conv(width, 8, stride=4, padding=0, activation="relu")
        net.conv(2 * width, 1)
        net.shape = (*net.shape[:2], width)
    for width in reversed([1, *widths[:-1]]):
        net.conv(2 * net.shape[-1], 1)
        net.shape = (*net.shape[:2], net.shape[-1] // 2)
        net.up(width, 8, 4, padding=0, activation="relu" if width > 1 else None)
    return net.layers


def wav2vec2_features(length: int = 16000) -> list[Layer]:
    """The feature encoder of wav2vec 2.0 and its positional convolution."""
    net = Writer(1, length, 1, bias=False, activation="gelu")
    for kernel, stride in ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2):
        net.conv(512, kernel, stride=stride, padding=0)
    net.shape = (*net.shape[:2], 768)
    net.conv(768, 128, padding=64, groups=16, bias=True)
    return net.layers


def whisper_stem(width: int) -> list[Layer]:
    """The two convolutions in front of Whisper's encoder."""
    net = Writer(1, 3000, 80, activation="gelu")
    net.conv(width, 3)
    net.conv(width, 3, stride=2)
    return net.layers


def voice_detector() -> list[Layer]:
    """One chunk of a voice detector in the manner of Silero's: call latency is all."""
    net = Writer(1, 576, 1)
    net.conv(258, 256, stride=128, padding=((0, 64),), padding_mode="reflect", bias=False)
    net.shape = (*net.shape[:2], 129)
    for width, stride in ((128, 1), (64, 2), (64, 2), (128, 1)):
        net.conv(width, 3, stride=stride, activation="relu")
    return net.layers


def vocos(frames: int = 100) -> list[Layer]:
    """Vocos' backbone: eight ConvNeXt blocks."""
    net = Writer(1, frames, 100)
    net.conv(512, 7)
    for _ in range(8):
        net.conv(512, 7, groups=512)
        net.conv(1536, 1, activation="gelu")
        net.conv(512, 1)
    return net.layers


# ---- images --------------------------------------------------------------------------------------------------------


def resnet18(size: int = 224) -> list[Layer]:
    """ResNet-18 without its classifier; batch norms are folded elsewhere."""
    net = Writer(1, size, size, 3, bias=False)
    net.conv(64, 7, stride=2, activation="relu")
    net.shape = (1, size // 4, size // 4, 64)
    for width in (64, 128, 256, 512):
        for block in range(2):
            given, stride = net.shape, 2 if width > 64 and block == 0 else 1
            net.conv(width, 3, stride=stride, activation="relu")
            net.conv(width, 3, activation="relu")
            if stride == 2:
                net.shape = given
                net.conv(width, 1, stride=2)
    return net.layers


def resnet50(groups: int = 1, per_group: int = 64, size: int = 224) -> list[Layer]:
    """ResNet-50 and, with 32 groups of 4, ResNeXt-50, without the classifier."""
    net = Writer(1, size, size, 3, bias=False)
    net.conv(64, 7, stride=2, activation="relu")
    net.shape = (1, size // 4, size // 4, 64)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = groups * per_group << stage, 256 << stage
        for block in range(blocks):
            given, stride = net.shape, 2 if stage and block == 0 else 1
            net.conv(inner, 1, activation="relu")
            net.conv(inner, 3, stride=stride, groups=groups, activation="relu")
            net.conv(outer, 1, activation="relu")
            if block == 0:
                net.shape = given
                net.conv(outer, 1, stride=stride)
    return net.layers


def mobilenet_v2(size: int = 224) -> list[Layer]:
    """MobileNetV2 without its classifier."""
    net = Writer(1, size, size, 3, bias=False)
    net.conv(32, 3, stride=2, activation="relu6")
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, blocks, first_stride in plan:
        for block in range(blocks):
            inner = expansion * net.shape[-1]
            if expansion > 1:
                net.conv(inner, 1, activation="relu6")
            net.conv(inner, 3, stride=1 if block else first_stride, groups=inner, activation="relu6")
            net.conv(width, 1)
    net.conv(1280, 1, activation="relu6")
    return net.layers


def unet(size: int = 256) -> list[Layer]:
    """U-Net with five levels."""
    net = Writer(1, size, size, 3)
    widths = (64, 128, 256, 512, 1024)
    for width in widths:
        net.shape = (1, size, size, net.shape[-1])
        net.conv(width, 3, activation="relu")
        net.conv(width, 3, activation="relu")
        size //= 2
    for width in reversed(widths[:-1]):
        net.up(width, 2, 2)
        net.shape = (*net.shape[:-1], 2 * width)
        net.conv(width, 3, activation="relu")
        net.conv(width, 3, activation="relu")
    net.conv(2, 1)
    return net.layers


def text_detector_head(size: int = 160) -> list[Layer]:
    """The head of PP-OCR's text detector."""
    net = Writer(1, size, size, 96)
    net.conv(24, 3, activation="relu")
    net.up(24, 2, 2, activation="relu")
    net.up(1, 2, 2, activation="sigmoid")
    return net.layers


def espcn(size: int = 256, factor: int = 3) -> list[Layer]:
    """ESPCN: a small image to a larger one."""
    net = Writer(1, size, size, 1)
    net.conv(64, 5, activation="tanh")
    net.conv(32, 3, activation="tanh")
    net.conv(factor**2, 3)
    return net.layers


def yolov8n_backbone(size: int = 640) -> list[Layer]:
    """The backbone of YOLOv8n."""
    net = Writer(1, size, size, 3, bias=False, activation="silu")
    net.conv(16, 3, stride=2)
    for width, blocks in ((32, 1), (64, 2), (128, 2), (256, 1)):
        net.conv(width, 3, stride=2)
        net.conv(width, 1)
        net.shape = (*net.shape[:-1], width // 2)
        for _ in range(2 * blocks):
            net.conv(width // 2, 3)
        net.shape = (*net.shape[:-1], (2 + blocks) * width // 2)
        net.conv(width, 1)
    net.conv(128, 1)
    net.shape = (*net.shape[:-1], 512)
    net.conv(256, 1)
    return net.layers


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "HiFi-GAN V1": hifigan,
    "HiFi-GAN V2": partial(hifigan, 128),
    "HiFi-GAN V3": hifigan_v3,
    "upscaler": upscaler,
    "EnCodec decoder": encodec_decoder,
    "DAC decoder": dac_decoder,
    "Mimi upsampling": mimi_upsampling,
    "WaveNet": wavenet,
    "TCN": tcn,
    "Denoiser (Demucs48)": denoiser,
    "wav2vec2 features": wav2vec2_features,
    **{f"Whisper stem {width}": partial(whisper_stem, width) for width in (384, 512, 768, 1024, 1280)},
    "voice detector": voice_detector,
    "Vocos": vocos,
    "ResNet-18": resnet18,
    "ResNet-50": resnet50,
    "ResNeXt-50 32x4d": partial(resnet50, groups=32, per_group=4),
    "MobileNetV2": mobilenet_v2,
    "U-Net": unet,
    "PP-OCR DB head": text_detector_head,
    "ESPCN x3": espcn,
    "YOLOv8n backbone": yolov8n_backbone,
}
