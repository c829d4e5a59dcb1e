"""experiments.generate: its rows, the same bytes after kills, and several processes and parts."""

import json
import os
import random
import socket
import time

import pytest

from configs import generate as configs
from experiments import generate
from r1jax import config, rewards
from r1jax.config import ConfigError
from r1jax.data import shards
from r1jax.data.toy import arithmetic
from r1jax.runs import generation

GENERATE = {'module': 'generate', 'config': 'configs/generate.py:toy'}
TINY = {'problems': 22, 'rollout.prompts': 4, 'rollout.samples': 3, 'rollout.chunk': 2, 'rollout.max_response': 24}


def settings(runs, **overrides):
  return {'model.path': runs.base} | TINY | overrides


def contents(workdir):
  """{name: bytes} of the files of a finished run."""
  return {p.name: p.read_bytes() for p in (*shards.files(workdir / 'samples'), workdir / 'summary.json')}


def start_and_kill(runs, workdir, files, delay=0.0):
  """Starts a run and kills it `delay` seconds after it has written `files` files."""
  count = lambda: len(list((workdir / 'samples').glob('*.jsonl')))
  runs.kill(workdir, lambda: count() >= files, settings(runs), delay, **GENERATE)


@pytest.fixture(scope='module')
def uninterrupted(runs, tmp_path_factory):
  """The workdir of an uninterrupted run: 22 problems in 6 files."""
  path = tmp_path_factory.mktemp('uninterrupted')
  runs.finish(path, settings(runs), **GENERATE)
  return path


def test_rows_are_graded_samples_in_order(uninterrupted):
  rows = list(shards.read(uninterrupted / 'samples'))
  assert len(rows) == 66 and len(shards.files(uninterrupted / 'samples')) == 6
  known = {p['id']: p for p in arithmetic.problems('trial', 0, arithmetic.TRAIN_POOL, held_out=False)}
  ids = [row['id'] for row in rows[::3]]
  assert len(set(ids)) == 22 and ids != sorted(ids)  # shuffled by the seed
  signs = rewards.resolve('signs')
  for n, row in enumerate(rows):
    assert row['sample'] == n % 3 and row['id'] == ids[n // 3]
    assert {k: row[k] for k in known[row['id']]} == known[row['id']] and row['prompt'] == row['problem'] + '\n'
    right = signs([row])[0]
    assert row['parts']['signs'] == right and row['correct'] == (right == 1)
    assert row['reward'] == pytest.approx(right + 0.5 * row['parts']['format'])
    assert 1 <= row['tokens'] <= 24 and row['stop'] in ('eos', 'length')
    assert row['tokens'] == 24 or row['stop'] == 'eos'
  assert len({row['response'] for row in rows}) > 10
  statistics = json.loads((uninterrupted / 'summary.json').read_text())['figures']['all']
  assert statistics['samples'] == 66 and statistics['problems'] == 22
  assert statistics['stop/eos'] + statistics['stop/length'] == 66
  assert statistics['pass@1'] == pytest.approx(sum(row['correct'] for row in rows) / 66)
  assert statistics['solved'] == len({row['id'] for row in rows if row['correct']})
  assert statistics['tokens'] == pytest.approx(sum(row['tokens'] for row in rows) / 66)


def test_a_killed_run_ends_with_the_same_bytes(runs, uninterrupted, tmp_path):
  start_and_kill(runs, tmp_path, 2)
  assert not (tmp_path / 'summary.json').exists()
  stderr = runs.finish(tmp_path, settings(runs), **GENERATE)
  assert '0/6' not in stderr  # it was resumed
  assert contents(tmp_path) == contents(uninterrupted)


def test_a_run_continued_with_slots_writes_the_same_rows(runs, uninterrupted, tmp_path):
  start_and_kill(runs, tmp_path, 2)
  runs.finish(tmp_path, settings(runs, **{'rollout.slots': 5}), **GENERATE)
  want = contents(uninterrupted)
  assert contents(tmp_path) | {'summary.json': want['summary.json']} == want  # the summary names the setting


def test_other_settings_in_the_same_folder_are_refused(runs, uninterrupted):
  before = contents(uninterrupted)
  message = runs.refuse(uninterrupted, settings(runs, **{'rollout.samples': 4}), **GENERATE)
  assert 'rollout.samples was 3, is 4' in message and '--workdir' in message
  assert contents(uninterrupted) == before


@pytest.mark.slow
def test_killed_at_random_moments(runs, uninterrupted, tmp_path):
  dice = random.Random(0)
  for files in sorted(dice.sample(range(1, 5), 2)):
    delay = dice.uniform(0, 0.3)
    print(f'killed {delay:.3f} s after {files} files')  # shown if the test fails
    start_and_kill(runs, tmp_path, files, delay)
  runs.finish(tmp_path, settings(runs), **GENERATE)
  assert contents(tmp_path) == contents(uninterrupted)


@pytest.mark.slow
def test_parts_share_the_files_of_one_folder(runs, uninterrupted, tmp_path):
  part = lambda n: runs.finish(tmp_path, settings(runs, parts=3, part=n), **GENERATE)
  part(2)
  assert [p.name[:5] for p in sorted((tmp_path / 'samples').glob('*.jsonl'))] == ['00002', '00005']
  assert not (tmp_path / 'summary.json').exists()
  part(0)
  part(1)
  actual, expected = contents(tmp_path), contents(uninterrupted)
  summaries = [json.loads(files.pop('summary.json')) for files in (actual, expected)]
  assert actual == expected and summaries[0]['sha256'] == summaries[1]['sha256']
  assert summaries[0]['figures'] == summaries[1]['figures']


@pytest.mark.slow
def test_two_processes_each_write_their_own_files(runs, tmp_path):
  """Two processes of one device; then one of them is killed, and the same command resumes."""
  devices = {
    'JAX_NUM_CPU_DEVICES': '1',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_collective_call_terminate_timeout_seconds=300',
  }

  def start(workdir):
    with socket.socket() as s:
      s.bind(('localhost', 0))
      address = f'localhost:{s.getsockname()[1]}'
    return [
      runs.start(
        workdir,
        settings(runs),
        env=devices | {'R1JAX_COORDINATOR': address, 'R1JAX_PROCESSES': '2', 'R1JAX_PROCESS': str(rank)},
        **GENERATE,
      )
      for rank in (0, 1)
    ]

  def finish(processes):
    stderrs = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], stderrs
    return stderrs

  stderrs = finish(start(tmp_path / 'two'))
  assert '6/6' in stderrs[0] and 'file/s' not in stderrs[1]  # only the first process logs
  rows = list(shards.read(tmp_path / 'two' / 'samples'))
  assert len(rows) == 66 and [row['sample'] for row in rows] == [0, 1, 2] * 22
  processes = start(tmp_path / 'killed')
  deadline = time.monotonic() + 600
  while not list((tmp_path / 'killed' / 'samples').glob('*.jsonl')):
    assert time.monotonic() < deadline and processes[1].poll() is None
    time.sleep(0.01)
  processes[1].kill()
  assert processes[0].wait(timeout=600) != 0 and processes[1].wait() != 0
  for process in processes:
    process.communicate()
  finish(start(tmp_path / 'killed'))
  assert contents(tmp_path / 'killed') == contents(tmp_path / 'two')


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (dict(model=dict(path='x'), endpoint=dict(url='http://localhost', model='m')), 'both set'),
    (dict(), 'empty'),
    (dict(endpoint=dict(url='http://localhost', model='m', retry=3)), "no option 'retry'; the nearest .* 'retries'"),
    (dict(endpoint=dict(url='ftp://localhost', model='m')), 'must begin with https'),
    (dict(endpoint=dict(url='http://localhost', model='m'), data=dict(template='nope')), "'nope'; known: "),
  ],
)
def test_invalid_configs_are_refused_with_one_line(more, match, tmp_path):
  cfg = configs.get_config('toy')
  cfg.update(more)
  with pytest.raises(ConfigError, match=match) as error:
    generate.run_generate(config.convert(cfg, config.Generate), str(tmp_path))
  assert '\n' not in str(error.value)


def test_statistics_are_over_all_samples_and_by_kind():
  statistics = generate.SampleStatistics()
  for kind in ('math', 'all', ['math'], None):
    statistics.add({'sample': 0, 'correct': True, 'stop': 'eos', 'reward': 1.0, 'tokens': 3, 'parts': {}, 'kind': kind})
  assert {kind: values['samples'] for kind, values in statistics.result().items()} == {'all': 4, 'math': 1}


def test_settings_hold_the_options_of_an_endpoint_that_change_its_answers():
  cfg = configs.get_config('toy')
  cfg.endpoint.update(dict(url='http://localhost', model='m', extra=dict(seed=1), api_key_env='KEY', concurrency=3))
  cfg = config.convert(cfg, config.Generate)
  settings = generation.settings(cfg, generation.policy_name(cfg))
  assert settings['endpoint'] == {'extra': {'seed': 1}} and 'KEY' not in json.dumps(settings)


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (dict(part=2, parts=2), 'part 2 must be below parts 2'),
    (dict(split='test'), "'test'; known: train, held_out"),
    (dict(problems=-1), 'problems is -1'),
  ],
)
def test_numbers_out_of_range_are_refused(more, match):
  cfg = configs.get_config('toy')
  cfg.update(more)
  with pytest.raises(ConfigError, match=match):
    config.convert(cfg, config.Generate)
