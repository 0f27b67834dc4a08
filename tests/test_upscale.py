"""The upscaler: its filters meet their specification, its network computes them, its command says what it did."""

import math

import numpy as np
import pytest

import nbconv
from nbconv.__main__ import main
from nbconv.examples import upscale as program
from nbconv.examples.wav import SAMPLE_FORMATS, Wav, read_wav, write_wav
from tests.helpers import optional

LEVEL = 10 ** (-program.ATTENUATION / 20)


def sine(frequency, rate, frames, channels=1):
    """Tones of unit amplitude, one phase a channel."""
    at = np.arange(frames)[:, None] / rate
    return np.sin(2 * np.pi * frequency * at + np.arange(channels))


@pytest.mark.parametrize(("stage", "pass_band"), [(0, 0.45), (1, 0.275), (2, 0.1375)])
def test_filters_hold_their_attenuation(stage, pass_band):
    taps = program.design_filters(8)[stage]
    at = np.arange(len(taps)) - (len(taps) - 1) / 2
    response = np.cos(2 * np.pi * np.outer(np.linspace(0, pass_band, 2001), at)) @ taps
    assert np.abs(response - 1).max() <= LEVEL


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_filters_are_symmetric_and_few(factor):
    filters = program.design_filters(factor)
    assert len(filters) == math.log2(factor)
    for taps in filters:
        np.testing.assert_array_equal(taps, taps[::-1])
    assert sum(len(taps) for taps in filters) < 120


@pytest.mark.smoke
def test_a_weight_keeps_the_frames_and_interpolates_between_them():
    taps = np.array([-1, 9, 9, -1]) / 16
    x = np.array([[[0.0, 8], [1, 7], [2, 6], [3, 5], [4, 4]]])
    y = program.upscale(x, [program.polyphase_weight(taps, 2)])[0]
    np.testing.assert_array_equal(y[::2], x[0])
    np.testing.assert_allclose(y[1], (-0 + 9 * x[0, 0] + 9 * x[0, 1] - x[0, 2]) / 16)
    np.testing.assert_array_equal(y[3:6:2], [[1.5, 6.5], [2.5, 5.5]])


def test_each_doubling_is_one_convolution_and_a_view(monkeypatch):
    results = []

    def conv1d(*args, **kwargs):
        results.append(nbconv_conv1d(*args, **kwargs))
        return results[-1]

    nbconv_conv1d = nbconv.conv1d
    monkeypatch.setattr(nbconv, "conv1d", conv1d)
    weights = [program.polyphase_weight(taps, 2) for taps in program.design_filters(8)]
    y = program.upscale(np.ones((1, 50, 2)), weights)
    assert y.shape == (1, 400, 2)
    assert [result.shape for result in results] == [(1, 50, 4), (1, 100, 4), (1, 200, 4)]
    assert np.shares_memory(y, results[-1])


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("frequency", [440.0, 0.2 * 48000, 0.449 * 48000])
def test_tones_come_out_at_the_new_rate(factor, frequency):
    frames, margin = 600, 100
    filters = program.design_filters(factor)
    weights = [program.polyphase_weight(taps, 2) for taps in filters]
    y = program.upscale(sine(frequency, 48000, frames, 2)[None], weights)[0]
    ideal = sine(frequency, 48000 * factor, frames * factor, 2)
    inner = slice(margin * factor, -margin * factor)
    assert np.abs(y - ideal)[inner].max() <= len(filters) * LEVEL


def test_the_made_sound_is_band_limited_and_silent_at_its_ends():
    sound = program.made_sound(4 * program.MADE_RATE)
    assert np.abs(sound).max() < 1
    assert np.abs(sound[[0, -1]]).max() < 1e-12
    spectrum = np.abs(np.fft.rfft(sound, axis=0)) / len(sound)
    beyond = np.fft.rfftfreq(len(sound), 0.25 / program.MADE_RATE) > program.PASS_BAND * program.MADE_RATE
    assert spectrum[beyond].max() < LEVEL / len(sound)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_command_without_arguments(tmp_path, monkeypatch, capsys, factor):
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", "--factor", str(factor)]) == 0
    sound = read_wav(f"test-signal-x{factor}.wav")
    assert sound.rate == 48000 * factor
    assert sound.samples.shape == (2 * 48000 * factor, 2)
    assert np.abs(sound.samples - program.made_sound(sound.rate)).max() <= 2 * LEVEL
    printed = capsys.readouterr().out
    for fact in ("duration      2.000 s", "taken ", "times real time", "GFLOP/s", "FMA peak", "ideal band-limited"):
        assert fact in printed


@pytest.mark.parametrize("form", SAMPLE_FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_command_keeps_format_and_channels(tmp_path, capsys, form, channels):
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    frames = 500
    samples = 0.5 * sine(3000.0, 16000, frames, channels) * np.hanning(frames)[:, None]
    write_wav(source, Wav(samples.astype(form.dtype), 16000, form, speakers=7 if channels == 3 else None))
    assert main(["upscale", str(source), str(target)]) == 0
    sound = read_wav(target)
    assert (sound.form, sound.rate, sound.samples.shape) == (form, 32000, (2 * frames, channels))
    assert sound.speakers == {3: 7, 10: 0}.get(channels)
    ideal = 0.5 * sine(3000.0, 32000, 2 * frames, channels) * np.hanning(frames)[:, None].repeat(2, axis=0)
    assert np.abs(sound.samples[::2] - ideal[::2]).max() <= 2.0 ** (1 - min(form.bits, 24))
    assert str(target) in capsys.readouterr().out


def test_result_lies_beside_the_input(tmp_path):
    write_wav(tmp_path / "a.wav", Wav(np.zeros((10, 1), np.float32), 8000, SAMPLE_FORMATS[1, 16]))
    assert main(["upscale", str(tmp_path / "a.wav"), "--factor", "4"]) == 0
    assert not read_wav(tmp_path / "a-x4.wav").samples.any()


def test_clipped_samples_are_told(tmp_path, capsys):
    loud = np.where(np.arange(400) % 4 < 2, 32767, -32768)[:, None] / 32768
    write_wav(tmp_path / "loud.wav", Wav(loud, 8000, SAMPLE_FORMATS[1, 16]))
    assert main(["upscale", str(tmp_path / "loud.wav")]) == 0
    assert "samples clipped at full scale" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("piece", [1 << 18, 100])
def test_scipy_agrees(tmp_path, capsys, monkeypatch, factor, piece):
    optional("scipy.signal", "NBCONV_REQUIRE_SCIPY")
    monkeypatch.setattr(program, "REFERENCE_FRAMES", piece)
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.3, 0.3, (777, 2))
    write_wav(tmp_path / "noise.wav", Wav(noise, 8000, SAMPLE_FORMATS[3, 64]))
    assert main(["upscale", str(tmp_path / "noise.wav"), "--factor", str(factor)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "resample_poly" in line)
    assert float(line.split()[2]) < 1e-14
    write_wav(tmp_path / "noise.wav", Wav(noise.astype(np.float32), 8000, SAMPLE_FORMATS[3, 32]))
    assert main(["upscale", str(tmp_path / "noise.wav"), "--factor", str(factor)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "resample_poly" in line)
    assert float(line.split()[2]) < 1e-6


def test_without_scipy_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.signal", None)
    write_wav(tmp_path / "a.wav", Wav(np.zeros((10, 1), np.float32), 8000, SAMPLE_FORMATS[1, 16]))
    assert main(["upscale", str(tmp_path / "a.wav")]) == 0
    assert "worst error   not measured: scipy" in capsys.readouterr().out
