"""The command line as a stranger meets it: help, typos, wrong files, Ctrl-C, a pipe that closes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.__main__ import COMMANDS, main
from nbconv.examples.wav import SAMPLE_FORMATS, Wav, write_wav
from nbconv.runtime.interrupts import interrupts_wait

COMMAND = [sys.executable, "-m", "nbconv"]
# The package under test, wherever the command is run.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nbconv.__file__).parents[1])}


def python_m_nbconv(*arguments, cwd=None, **variables):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=300
    )


def refuse(capsys, *arguments):
    """Run a command that must fail: one line on stderr, nothing on stdout, status 2; return the line."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.fixture
def wav_path(tmp_path):
    path = tmp_path / "sound.wav"
    write_wav(path, Wav(np.zeros((100, 1), np.float32), 8000, SAMPLE_FORMATS[1, 16]))
    return path


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 120 for line in printed.splitlines())
    for name in COMMANDS if len(arguments) == 1 else arguments[:1]:
        assert name in printed


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"nbconv {nbconv.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["upscal"], "no command 'upscal'; did you mean 'upscale'?"),
        (["zzz"], "no command 'zzz'; commands: upscale, "),
        (["--nope"], "required: COMMAND"),
        (["upscale", "--factor", "3"], "argument --factor: invalid choice: 3"),
        (["upscale", "--factor", "x"], "argument --factor: invalid int value: 'x'"),
        (["upscale", "a.wav", "b.wav", "c.wav"], "unrecognized arguments: c.wav"),
        (["upscale", "missing.wav"], "nbconv upscale: error: missing.wav: No such file or directory"),
        (["upscale", "."], "nbconv upscale: error: .: "),
        (["upscale", __file__], "test_cli.py: not a WAV file"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, arguments, text):
    assert text in refuse(capsys, *arguments)


def test_wrong_outputs_are_refused_before_the_work(capsys, tmp_path, wav_path, monkeypatch):
    monkeypatch.setattr(nbconv, "conv1d", None)
    assert "this is the input file" in refuse(capsys, "upscale", str(wav_path), str(wav_path))
    assert "its folder does not exist" in refuse(capsys, "upscale", str(wav_path), str(tmp_path / "no" / "a.wav"))
    assert "is a directory" in refuse(capsys, "upscale", str(wav_path), str(tmp_path))


def test_broken_and_empty_files(capsys, tmp_path, wav_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(wav_path.read_bytes()[:-7])
    assert "broken.wav: broken WAV file: 200 bytes of data announced, 193 present" in refuse(
        capsys, "upscale", str(broken)
    )
    write_wav(tmp_path / "empty.wav", Wav(np.zeros((0, 2)), 8000, SAMPLE_FORMATS[1, 24]))
    assert "the file holds no samples" in refuse(capsys, "upscale", str(tmp_path / "empty.wav"))
    write_wav(tmp_path / "fast.wav", Wav(np.zeros((1, 2)), 2**28, SAMPLE_FORMATS[1, 24]))
    assert "do not fit in a WAV file" in refuse(capsys, "upscale", str(tmp_path / "fast.wav"), "--factor", "8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_error(wav_path):
    done = python_m_nbconv("upscale", str(wav_path), "/dev/full")
    assert done.returncode == 2
    assert done.stderr == "nbconv upscale: error: /dev/full: No space left on device\n"


def test_info(capsys):
    assert main(["info"]) == 0
    facts = {}
    for line in capsys.readouterr().out.splitlines():
        facts.setdefault(line[:15].strip(), line[16:])
    for name in (
        "nbconv",
        "processor",
        "vector width",
        "float32 tiles",
        "threads",
        "thread layer",
        "cache folder",
        "cuda",
    ):
        assert facts[name]


@pytest.mark.parametrize("command", ["info", "upscale"])
def test_a_wrong_environment_variable_is_told(tmp_path, command):
    done = python_m_nbconv(command, cwd=tmp_path, NBCONV_NUM_THREADS="many")
    assert done.returncode == 2
    assert "NBCONV_NUM_THREADS must be a whole number" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_command_runs_as_a_module(tmp_path):
    done = python_m_nbconv("upscale", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "test-signal-x2.wav").stat().st_size > 1_500_000
    assert done.stderr == ""


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [*COMMAND, "info"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(120) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_waits_for_the_compiler():
    done = []

    def work() -> None:
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(sum(range(1000)))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_is_quiet(tmp_path):
    samples = np.zeros((4_000_000, 2), np.float32)
    write_wav(tmp_path / "long.wav", Wav(samples, 8000, SAMPLE_FORMATS[1, 16]))
    with subprocess.Popen(
        [*COMMAND, "upscale", "--factor", "8", "long.wav"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()  # it has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, b"")
    assert not (tmp_path / "long-x8.wav").exists()
