"""A run that loses its processes, or its disk, at any moment: the same command again ends with the same bits."""

import os
import random
import re
import signal
import subprocess
import time

import pytest


def lines(workdir, count):
  """Whether metrics.jsonl holds `count` lines or more."""
  path = workdir / 'metrics.jsonl'
  return lambda: path.exists() and path.read_bytes().count(b'\n') >= count


def begun(workdir, step):
  """Whether the checkpoint of `step` is being written: orbax's temporary directory is there."""
  return lambda: any((workdir / 'checkpoints').glob(f'step_{step:06d}.*'))


def exists(path):
  return path.exists


def committed(workdir):
  return sorted(int(p.name[5:]) for p in (workdir / 'checkpoints').glob('step_??????'))


def test_killed_between_two_checkpoints(runs, straight, tmp_path):
  """As soon as two steps are recorded, which is when the first checkpoint is being written."""
  runs.kill(tmp_path, lines(tmp_path, 2))
  assert not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)


def test_asked_to_end_it_saves_what_it_has_and_another_command_may_not_work_beside_it(runs, straight, tmp_path):
  """Asked once while it trains, once while it evaluates, by both signals."""
  said = runs.ask(tmp_path, lines(tmp_path, 1), signal.SIGTERM, lambda: runs.refuse(tmp_path))
  step = int(
    re.fullmatch(r'stopped by SIGTERM: ([1-6]) of 6 steps are saved; run the same command again to go on.', said)[1]
  )
  assert step in committed(tmp_path) and not (tmp_path / '.lock').exists()
  if step < 6:
    said = runs.ask(tmp_path, lines(tmp_path, step + 1), signal.SIGINT)
    assert said.startswith('stopped by SIGINT: ') and 'run the same command again' in said
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)


@pytest.mark.slow
def test_killed_in_every_phase(runs, straight, tmp_path):
  """One run, killed in one phase after the other; TINY saves after 2, 4, 6 steps and evaluates at 0 and 3."""
  runs.kill(tmp_path, exists(tmp_path / 'samples' / 'step_000000.jsonl'))  # base evaluation
  assert not (tmp_path / 'eval_base.json').exists()
  runs.kill(tmp_path, lines(tmp_path, 1))  # step 1: no checkpoint yet
  assert committed(tmp_path) == []
  runs.kill(tmp_path, begun(tmp_path, 2))  # save
  assert committed(tmp_path) == [] and begun(tmp_path, 2)()
  runs.kill(tmp_path, lines(tmp_path, 3))  # evaluation at step 3
  assert committed(tmp_path) in ([], [2])  # saves go on beside the next steps
  assert not (tmp_path / 'samples' / 'step_000003.jsonl').exists()
  runs.kill(tmp_path, lines(tmp_path, 5))  # step 5
  assert committed(tmp_path) in ([2], [2, 4])
  runs.kill(tmp_path, begun(tmp_path, 6))  # the last save
  assert committed(tmp_path) == [2, 4]
  runs.kill(tmp_path, exists(tmp_path / 'samples' / 'step_000006.jsonl'))  # final evaluation
  assert committed(tmp_path) == [4, 6] and not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path)
  runs.same(tmp_path, straight)
  runs.finish(tmp_path)  # of a finished run: nothing changes
  runs.same(tmp_path, straight)


@pytest.mark.slow
def test_killed_at_random_moments(runs, tmp_path):
  """Somewhere in the 0.3 s after each of five random steps: in a rollout, an update, a save or an evaluation."""
  settings, dice = {'steps': 30}, random.Random(time.time_ns())
  runs.finish(tmp_path / 'straight', settings)
  for step in sorted(dice.sample(range(1, 21), 5)):
    delay = dice.uniform(0, 0.3)
    print(f'killed {delay:.3f} s after {step} steps')  # shown where the test fails
    runs.kill(tmp_path / 'run', lines(tmp_path / 'run', step), settings, delay)
  runs.finish(tmp_path / 'run', settings)
  runs.same(tmp_path / 'run', tmp_path / 'straight')


@pytest.mark.slow
def test_disk_full(runs, straight, small_disk):
  """There is room for one checkpoint (3.5 MB) and not for two."""
  run = small_disk / 'run'
  said = runs.refuse(run)
  assert 'the checkpoint of step 4 could not be written' in said and 'step 2 is the last complete one' in said
  assert 'No space left on device' in said and len(said) < 600
  step, _ = runs.last_checkpoint(run)
  assert step == 2 and committed(run) == [2]
  (small_disk / 'filler').write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
  said = runs.refuse(run)  # no room for a line of metrics
  assert 'No space left on device' in said and 'make room' in said
  assert runs.last_checkpoint(run)[0] == 2
  (small_disk / 'filler').unlink()
  subprocess.run(['mount', '-o', 'remount,size=64m', small_disk], check=True)
  runs.finish(run)
  runs.same(run, straight)
