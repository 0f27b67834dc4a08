"""WAV files: round trips, the standard library's own reader and writer as judges, and every kind of broken file."""

import struct
import sys
import wave

import numpy as np
import pytest

from nbconv.examples.wav import SAMPLE_FORMATS, SUBFORMAT_TAIL, Wav, WavError, check_fits, read_wav, write_wav

PCM16, PCM24, FLOAT32 = SAMPLE_FORMATS[1, 16], SAMPLE_FORMATS[1, 24], SAMPLE_FORMATS[3, 32]


def exact_samples(form, frames, channels):
    """Values that the format holds exactly, both ends of its range among them."""
    rng = np.random.default_rng(0)
    if form.code == 3:
        return rng.standard_normal((frames, channels)).astype(form.dtype)
    scale = 2 ** (form.bits - 1)
    whole = rng.integers(-scale, scale, (frames, channels))
    whole[:2] = [[-scale], [scale - 1]]
    return (whole / scale).astype(form.dtype)


@pytest.mark.parametrize("form", SAMPLE_FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("frames", [2, 501])
def test_round_trip_is_exact(tmp_path, form, channels, frames):
    path = tmp_path / "sound.wav"
    sound = Wav(exact_samples(form, frames, channels), 44100, form, speakers=0x3F if channels == 6 else None)
    assert write_wav(path, sound) == 0
    again = read_wav(path)
    assert (again.rate, again.form, again.speakers) == (44100, form, sound.speakers)
    assert again.samples.dtype == form.dtype
    assert again.samples.flags.c_contiguous
    np.testing.assert_array_equal(again.samples, sound.samples)
    assert path.stat().st_size == 8 + struct.unpack("<4sI", path.read_bytes()[:8])[1]


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_standard_library_agrees(tmp_path, width, channels):
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, 101 * channels * width, np.uint8).tobytes()
    with wave.open(str(tmp_path / "theirs.wav"), "wb") as file:
        file.setparams((channels, width, 8000, 0, "NONE", ""))
        file.writeframes(raw)
    sound = read_wav(tmp_path / "theirs.wav")
    first = int.from_bytes(raw[:width], "little", signed=True)
    assert sound.samples[0, 0] == first / 2 ** (8 * width - 1)
    write_wav(tmp_path / "ours.wav", sound)
    with wave.open(str(tmp_path / "ours.wav"), "rb") as file:
        assert file.getparams()[:4] == (channels, width, 8000, 101)
        assert file.readframes(101) == raw


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the standard library reads no extensible format before 3.12")
def test_the_standard_library_reads_our_extensible_files(tmp_path):
    write_wav(tmp_path / "six.wav", Wav(exact_samples(PCM24, 9, 6), 48000, PCM24))
    with wave.open(str(tmp_path / "six.wav"), "rb") as file:
        assert file.getparams()[:4] == (6, 3, 48000, 9)


def test_chunks_around_the_data_are_skipped(tmp_path):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(exact_samples(PCM16, 5, 1), 8000, PCM16))
    raw = path.read_bytes()
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(raw[:12] + odd + raw[12:36] + odd + raw[36:] + odd)
    np.testing.assert_array_equal(read_wav(path).samples, exact_samples(PCM16, 5, 1))


def test_a_streamed_file_without_a_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(exact_samples(PCM16, 5, 2), 8000, PCM16))
    raw = bytearray(path.read_bytes())
    raw[40:44] = b"\xff" * 4
    path.write_bytes(raw + b"\0")
    assert read_wav(path).samples.shape == (5, 2)


def test_integer_formats_round_and_clip(tmp_path):
    samples = np.array([[1.5], [-1.5], [0.4 / 32768], [0.6 / 32768], [-1.0], [np.nan]])
    assert write_wav(tmp_path / "loud.wav", Wav(samples, 8000, PCM16)) == 3
    np.testing.assert_array_equal(
        read_wav(tmp_path / "loud.wav").samples[:, 0] * 32768, [32767, -32768, 0, 1, -32768, 0]
    )


def test_long_sounds_are_converted_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("nbconv.examples.wav.BLOCK", 7)
    samples = exact_samples(PCM24, 100, 2)
    write_wav(tmp_path / "sound.wav", Wav(samples, 8000, PCM24))
    np.testing.assert_array_equal(read_wav(tmp_path / "sound.wav").samples, samples)


def test_every_shortened_file_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(exact_samples(FLOAT32, 3, 3), 8000, FLOAT32))
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(WavError, match="WAV file"):
            read_wav(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: b"RF64"}, "RF64 files are not supported"),
        ({0: b"OggS"}, "not a WAV file"),
        ({12: b"junk"}, "data come before the format"),
        ({20: b"\x02\x00"}, "format 0x0002 with 16 bits a sample is not supported; supported: 16-bit, 24-bit"),
        ({34: b"\x08\x00"}, "format 0x0001 with 8 bits a sample is not supported"),
        ({22: b"\x00\x00"}, "broken WAV file: 0 channels"),
        ({24: b"\x00\x00\x00\x00"}, "at 0 Hz"),
        ({32: b"\x07\x00"}, "in frames of 7 bytes"),
        ({40: b"\x07"}, "not a whole number of 4-byte frames"),
        ({40: b"\x40"}, "64 bytes of data announced, 12 present"),
    ],
)
def test_each_kind_of_broken_file_is_named(tmp_path, change, text):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(exact_samples(PCM16, 3, 2), 8000, PCM16))
    raw = bytearray(path.read_bytes())
    for at, new in change.items():
        raw[at : at + len(new)] = new
    path.write_bytes(raw)
    with pytest.raises(WavError, match=text):
        read_wav(path)


def test_a_foreign_guid_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(exact_samples(PCM16, 3, 4), 8000, PCM16))
    path.write_bytes(path.read_bytes().replace(SUBFORMAT_TAIL, SUBFORMAT_TAIL[:-1] + b"\0"))
    with pytest.raises(WavError, match="0xfffe with 16 bits"):
        read_wav(path)


@pytest.mark.parametrize(("frames", "channels", "rate"), [(2**30, 2, 48000), (1, 2, 2**30), (1, 2**15, 1)])
def test_sounds_beyond_the_32_bit_fields_are_refused(frames, channels, rate):
    with pytest.raises(WavError, match="do not fit in a WAV file"):
        check_fits(frames, channels, rate, FLOAT32 if frames > 1 else PCM24)
