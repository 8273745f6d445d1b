"""SIGKILL at random moments and in the middle of writing a checkpoint: nothing is lost, nothing changes."""

import random
import signal
import time

import pytest
import torch

import run_folder
from monosem.sae import load
from monosem.training import checkpoint

pytestmark = pytest.mark.slow
SAES = ("topk", "batch_topk", "jumprelu")
SETTINGS = {
    **run_folder.SETTINGS,
    "sae": ",".join(SAES),
    "tokens": 32 * 1500,
    "checkpoint_every": 1,
    "n_latents": 512,
}


def weights(folder):
    return {name: load(folder / "saes" / name).state_dict() for name in SAES}


def kill_when(process, moment):
    """Wait for `moment()`, then SIGKILL; False if the process was done before."""
    while process.poll() is None:
        if moment():
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    return False


def test_a_run_killed_again_and_again_equals_an_uninterrupted_one(tmp_path):
    arguments = ["train", "--threads", "1", *run_folder.flags({**SETTINGS, **run_folder.inputs(tmp_path)})]
    whole = run_folder.monosem(tmp_path, *arguments, "--run", "whole")
    assert whole.returncode == 0, whole.stderr

    checkpoints = tmp_path / "parts" / "checkpoints"
    choose, killed_while_writing, torn = random.Random(0), 0, 0
    for attempt in range(7):
        process = run_folder.start(tmp_path, *arguments, "--run", "parts")
        begun = checkpoint.steps(checkpoints)[-1:] or [0]
        until = begun[0] + choose.randrange(5, 150)

        def far_enough(until=until):
            return (checkpoint.steps(checkpoints)[-1:] or [0])[0] >= until

        def writing(far_enough=far_enough):
            return far_enough() and any(checkpoints.glob(".*.tmp/*.safetensors"))

        in_writing = attempt % 2 == 0
        if not kill_when(process, writing if in_writing else far_enough):
            break
        killed_while_writing += in_writing
        torn += any(checkpoints.glob(".*.tmp"))
        assert checkpoint.load(checkpoints) is not None, "the last whole checkpoint can always be read"
    assert killed_while_writing >= 3
    assert torn >= 1, "at least one checkpoint was cut in the middle"

    last = run_folder.monosem(tmp_path, "train", "--resume", "parts", "--threads", "1")
    assert last.returncode == 0, last.stderr
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in SAES:
        assert all(torch.equal(found[name][key], value) for key, value in expected[name].items())
    assert not any(checkpoints.glob(".*.tmp")), "what a killed process left behind is cleaned up"


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_continue(tmp_path):
    arguments = [
        "train",
        *run_folder.flags(
            {**SETTINGS, "tokens": 32 * 20000, "checkpoint_every": 100000, **run_folder.inputs(tmp_path)}
        ),
    ]
    process = run_folder.start(tmp_path, *arguments, "--run", "run")
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with monosem train --resume run" in err.splitlines()[-1]
    assert len(checkpoint.steps(tmp_path / "run" / "checkpoints")) == 1
