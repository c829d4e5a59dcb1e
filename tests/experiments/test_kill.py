"""Runs that are killed, interrupted or out of disk at any moment: the same command ends with the same bits."""

import os
import random
import re
import signal
import subprocess

import numpy as np
import pytest


def lines(workdir, count):
  """A function that says whether metrics.jsonl has at least `count` lines."""
  path = workdir / 'metrics.jsonl'
  return lambda: path.exists() and path.read_bytes().count(b'\n') >= count


def being_saved(workdir, step):
  """A function that says whether the checkpoint of `step` is being written, by Orbax's temporary directory."""
  return lambda: any((workdir / 'checkpoints').glob(f'step_{step:06d}.*'))


def exists(path):
  return path.exists


def committed(workdir):
  return sorted(int(p.name[5:]) for p in (workdir / 'checkpoints').glob('step_??????'))


def test_killed_between_two_checkpoints(runs, straight, tmp_path):
  """Killed as soon as two steps are recorded, while the first checkpoint is being written."""
  runs.kill(tmp_path, lines(tmp_path, 2))
  assert not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)


@pytest.mark.slow
def test_a_signal_saves_and_ends_a_run_and_a_second_command_is_refused_meanwhile(runs, straight, tmp_path):
  """Signalled once while it trains and once while it evaluates, with both signals."""
  message = runs.interrupt(tmp_path, lines(tmp_path, 1), signal.SIGTERM, lambda: runs.refuse(tmp_path))
  step = int(re.search('SIGTERM: ([1-6]) of 6 steps are saved', message)[1])
  assert step in committed(tmp_path) and not (tmp_path / '.lock').exists()
  if step < 6:
    message = runs.interrupt(tmp_path, lines(tmp_path, step + 1), signal.SIGINT)
    assert 'SIGINT: ' in message and 'run the same command again' in message
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)


@pytest.mark.slow
def test_killed_in_every_phase(runs, straight, tmp_path):
  """One run, killed in each phase in turn; TINY saves after 2, 4 and 6 steps and evaluates at 0 and 3."""
  runs.kill(tmp_path, exists(tmp_path / 'samples' / 'step_000000.jsonl'))  # base evaluation
  assert not (tmp_path / 'eval_base.json').exists()
  runs.kill(tmp_path, lines(tmp_path, 1))  # step 1: no checkpoint yet
  assert committed(tmp_path) == []
  runs.kill(tmp_path, being_saved(tmp_path, 2))  # save
  assert committed(tmp_path) == [] and being_saved(tmp_path, 2)()
  runs.kill(tmp_path, lines(tmp_path, 3))  # evaluation at step 3
  assert committed(tmp_path) in ([], [2])  # saves overlap with the next steps
  assert not (tmp_path / 'samples' / 'step_000003.jsonl').exists()
  runs.kill(tmp_path, lines(tmp_path, 5))  # step 5
  assert committed(tmp_path) in ([2], [2, 4])
  runs.kill(tmp_path, being_saved(tmp_path, 6))  # the last save
  assert committed(tmp_path) == [2, 4]
  runs.kill(tmp_path, exists(tmp_path / 'samples' / 'step_000006.jsonl'))  # final evaluation
  assert committed(tmp_path) == [4, 6] and not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)
  runs.finish(tmp_path)  # a finished run does not change
  runs.same(tmp_path, straight)


@pytest.mark.slow
def test_killed_at_random_moments(runs, tmp_path):
  """Killed within 0.3 s after each of five random steps: in a rollout, update, save or evaluation."""
  settings, dice = {'steps': 30}, random.Random(0)
  runs.finish(tmp_path / 'uninterrupted', settings)
  for step in sorted(dice.sample(range(1, 21), 5)):
    delay = dice.uniform(0, 0.3)
    print(f'killed {delay:.3f} s after {step} steps')  # shown if the test fails
    runs.kill(tmp_path / 'run', lines(tmp_path / 'run', step), settings, delay)
  runs.finish(tmp_path / 'run', settings)
  runs.same(tmp_path / 'run', tmp_path / 'uninterrupted')


@pytest.mark.slow
def test_disk_full(runs, straight, small_disk):
  """There is room for one checkpoint (3.5 MB) but not for two."""
  run = small_disk / 'run'
  message = runs.refuse(run)
  assert 'step 4' in message and 'step 2' in message
  assert 'No space left on device' in message and len(message) < 600
  step, _ = runs.last_checkpoint(run)
  assert step == 2 and committed(run) == [2]
  (small_disk / 'filler').write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
  message = runs.refuse(run)  # no room for a line of metrics
  assert 'No space left on device' in message and 'space' in message
  assert runs.last_checkpoint(run)[0] == 2
  (small_disk / 'filler').unlink()
  subprocess.run(['mount', '-o', 'remount,size=64m', small_disk], check=True)
  runs.finish(run)
  runs.same(run, straight)


@pytest.mark.slow
def test_ppo_killed_with_its_critic(runs, tmp_path):
  """Killed while the critic warms up alone, during a save, and while both learn."""
  settings = {
    'loss.advantage': 'gae',
    'critic.warmup': 1,
    'critic.learning_rate': 1e-3,
    'train.epochs': 2,
    'train.minibatches': 2,
    'loss.kl_place': 'reward',
  }
  want, got = tmp_path / 'uninterrupted', tmp_path / 'killed'
  runs.finish(want, settings)
  runs.kill(got, lines(got, 1), settings)
  runs.kill(got, being_saved(got, 2), settings)
  runs.kill(got, lines(got, 5), settings)
  runs.finish(got, settings)
  runs.same(got, want)
  rows = [row for row in runs.metrics(got) if 'value/loss' in row]
  assert len(rows) == 6 and ['policy/loss' in row for row in rows] == [False] + [True] * 5
  assert all(row.keys() >= {'value/explained_variance', 'value/clip_fraction', 'value/grad_norm'} for row in rows)
  _, arrays = runs.last_checkpoint(got)
  assert np.abs(arrays['critic.params.score']).max() > 0  # it began at zero
  assert 'other settings: critic' in runs.refuse(got, settings | {'critic.gae_lambda': 1.0})
