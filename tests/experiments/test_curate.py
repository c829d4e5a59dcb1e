"""experiments.curate: its dataset, the configs it refuses, and the same files after kill -9."""

import json
import os
import pathlib
import random
import sqlite3
import subprocess
import sys
import time
import types

from ml_collections import ConfigDict
import pytest

from configs import curate as configs
from experiments import curate
from r1jax import config, data
from r1jax.metrics.writer import Writer, read_metrics
from r1jax.recipes import filters, planted, rejection

COUNT = 1400


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('planted')
  planted.write(path, COUNT)
  return path


def make_config(folder, **overrides):
  c = configs.get_config('planted')
  c.update(samples=str(folder), evaluation=(str(folder / 'evaluation.jsonl'),), chunk=100)
  c.merge.general.path = str(folder / 'general.jsonl')
  c.update(ConfigDict(overrides))
  return config.convert(c, config.Curate)


def outputs(workdir):
  """(summary, {path: bytes}) of a run, without what depends on the clock or memory use."""
  summary = json.loads((workdir / 'summary.json').read_text())
  del summary['seconds'], summary['memory']
  skipped = ('summary.json', 'metrics.jsonl')
  files = {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in workdir.rglob('*')
    if p.is_file() and p.name not in skipped and not {'tb', 'plots'} & set(p.parts)
  }
  return summary, files


@pytest.fixture(scope='module')
def uninterrupted(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp('uninterrupted')
  curate.run_curate(make_config(folder), str(path))
  return path


slow = pytest.mark.slow  # TFDS and the language identifier take seconds


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'samples': '', 'merge': {}}, 'samples and merge'),
    ({'merge': {'general': {'path': ''}}}, 'merge.general.path is empty'),
    ({'merge': {'samples': {'path': 'x'}}}, "'samples'"),
    ({'judged': ('open',)}, 'judge'),
    ({'name': 'Rows'}, "name is 'Rows'"),
    ({'name': ''}, "name is ''"),
    ({'version': '1.0'}, 'three numbers'),
    ({'per_prompt': 0}, 'per_prompt is 0'),
    ({'overlap': 0.0}, r'overlap is 0\.0'),
    ({'chunk': 0}, 'chunk is 0'),
    ({'samples': 'nowhere/samples.jsonl'}, 'No such file'),
    ({'judge': {'url': 'http://localhost/v1', 'modle': 'x'}, 'judged': ('open',)}, 'modle'),
  ],
)
def test_invalid_configs_are_refused_with_one_line(folder, tmp_path, changes, match):
  with pytest.raises((config.ConfigError, OSError), match=match) as error:
    curate.run_curate(
      config.convert(config.to_dict(make_config(folder)) | changes, config.Curate), str(tmp_path / 'run')
    )
  assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()  # nothing was written


def test_the_judge_is_built_from_its_options(folder):
  pytest.importorskip('httpx')
  cfg = make_config(folder, judge={'url': 'http://localhost/v1', 'model': 'x'}, judged=('math',))
  assert callable(curate.load_judge(cfg)) and curate.load_judge(make_config(folder)) is None


def test_a_pass_killed_after_its_last_chunk_still_records_metrics(tmp_path):
  curation = types.SimpleNamespace(state={'read': 5, 'rows': 3}, run=lambda report: curation.state)
  with Writer(tmp_path) as writer:
    curate.run_pass(curation, writer)
  (record,) = read_metrics(tmp_path)
  assert (record['step'], record['rows/kept']) == (5, 3) and record['memory/rss'] > 0


def test_the_origin_of_a_source_is_read_from_its_summary_or_card(tmp_path):
  source = lambda sampled: filters.Source('x', (str(tmp_path / 'x' / 'rows.jsonl'),), sampled)
  (tmp_path / 'x').mkdir()
  (tmp_path / 'summary.json').write_text('{"stages": {}, "config": {"model": null}}')  # the summary of a recipe
  assert curate.describe_source(source(True)) == curate.describe_source(source(False)) == ''
  for card, origin in (({'sha256': 'abc'}, 'abc'), ({'name': 'n', 'version': '1.0.0'}, 'n 1.0.0'), ([], '')):
    (tmp_path / 'x' / 'card.json').write_text(json.dumps(card))
    assert curate.describe_source(source(False)) == origin


def test_an_unusable_database_is_a_data_error(tmp_path):
  with pytest.raises(data.DataError, match='database is locked'):
    with curate.machine_errors(tmp_path):
      raise sqlite3.OperationalError('database is locked')
  (tmp_path / 'seen.sqlite').write_bytes(b'not a table' * 99)
  with pytest.raises(data.DataError, match='file is not a database.*remove'):
    with curate.machine_errors(tmp_path):
      rejection.Pass(tmp_path, None, [], None, None)


@slow
def test_the_dataset_and_its_card(folder, uninterrupted):
  summary, files = outputs(uninterrupted)
  expected = json.loads((folder / 'planted.json').read_text())
  assert {s['name']: {'': s['kept']} | s['dropped'] for s in summary['sources']} == expected
  rows = [json.loads(line) for line in files['train.jsonl'].splitlines()]
  assert len(rows) == summary['rows'] == sum(reasons[''] for reasons in expected.values())
  assert set(files) == {
    'train.jsonl',
    'card.json',
    'README.md',
    'curate.json',
    'reasoning/1.0.0/dataset_info.json',
    'reasoning/1.0.0/features.json',
    'reasoning/1.0.0/reasoning-train.array_record-00000-of-00001',
  }
  card, readme = json.loads(files['card.json']), files['README.md'].decode()
  command = ['sha256sum', uninterrupted / 'train.jsonl']
  assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0] == card['sha256']
  assert card['sha256'] in readme and all(f'| {reason} | ' in readme for reason in filters.REASONS)
  assert card['evaluation'][0]['dropped'] == sum(reasons['contaminated'] for reasons in expected.values())
  assert {row['id'].partition('/')[0] for row in rows} == {'planted', 'general'}
  assert (uninterrupted / 'plots' / 'memory.png').exists()


@slow
def test_a_finished_run_is_not_repeated_and_another_config_is_refused(folder, uninterrupted, tmp_path):
  before = outputs(uninterrupted), (uninterrupted / 'train.jsonl').stat().st_mtime_ns
  assert curate.run_curate(make_config(folder, workers=2), str(uninterrupted))['rows'] == before[0][0]['rows']
  assert (outputs(uninterrupted), (uninterrupted / 'train.jsonl').stat().st_mtime_ns) == before
  with pytest.raises(config.ConfigError, match='per_prompt was'):
    curate.run_curate(make_config(folder, per_prompt=3), str(uninterrupted))


@slow
def test_the_card_names_the_origin_of_each_source(folder, uninterrupted, tmp_path):
  """The policy of the samples, and the merged dataset."""
  (tmp_path / 'made').mkdir()
  (tmp_path / 'made' / 'samples').symlink_to(folder / 'samples')
  summary = {'policy': 'a digest', 'config': {'model': {'path': 'run/model'}}}
  (tmp_path / 'made' / 'summary.json').write_text(json.dumps(summary))
  cfg = make_config(folder, samples=str(tmp_path / 'made'), merge={'general': {'path': str(uninterrupted), 'limit': 5}})
  curate.run_curate(cfg, str(tmp_path / 'run'))
  card = json.loads((tmp_path / 'run' / 'card.json').read_text())
  assert [s['made_by'].partition(',')[0] for s in card['sources']] == ['run/model', 'reasoning 1.0.0']
  assert 'a digest' in card['sources'][0]['made_by'] and card['sources'][1]['dropped']['duplicate'] > 0


@slow
def test_a_dataset_without_rows_is_refused(folder, tmp_path):
  cfg = make_config(folder, filters={'paragraph': 1}, merge={'general': {'limit': 0}})
  none = tmp_path / 'none.jsonl'
  none.write_text('x\n')
  with pytest.raises(data.DataError, match='all 1 rows .*malformed: line 1'):
    curate.run_curate(
      config.convert(config.to_dict(cfg) | {'samples': str(none), 'merge': {}}, config.Curate), str(tmp_path / 'run')
    )


def start(folder, workdir):
  flags = [
    f'--config.samples={folder}',
    f'--config.merge.general.path={folder}/general.jsonl',
    f"--config.evaluation=('{folder}/evaluation.jsonl',)",
    '--config.chunk=100',
  ]
  command = [sys.executable, '-m', 'experiments.curate', '--config', 'configs/curate.py:planted', '--workdir', workdir]
  return subprocess.Popen(
    [*command, *flags],
    cwd=pathlib.Path(__file__).parents[2],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    text=True,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )


@slow
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(folder, uninterrupted, tmp_path):
  """Killed as the pass starts, at random moments within it, and while the dataset is being written."""
  dice = random.Random(0)
  lines = lambda: (tmp_path / 'metrics.jsonl').read_bytes().count(b'\n') if (tmp_path / 'metrics.jsonl').exists() else 0
  moments = [((tmp_path / 'state' / rejection.ROWS).exists, 0.0)]
  moments += [(lambda n=n: lines() >= n, dice.uniform(0, 0.1)) for n in sorted(dice.sample(range(1, 14), 2))]
  moments += [((tmp_path / 'train.jsonl').exists, dice.uniform(0, 1.0))]
  for moment, delay in moments:
    process = start(folder, tmp_path)
    while not moment() and process.poll() is None:
      time.sleep(0.0005)
    time.sleep(delay)
    process.kill()
    print(f'killed {delay:.3f} s after the awaited file; output: {process.communicate()[0]}')
  process = start(folder, tmp_path)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  assert outputs(tmp_path) == outputs(uninterrupted) and not (tmp_path / 'state').exists()
  assert 'near duplicate' in output.splitlines()[-1]
