"""From samples to a dataset to learn from: rejection sampling, filters, duplicates, contamination, and a card.

  python -m experiments.curate --config configs/curate.py:toy --config.samples=SAMPLES --workdir D

SAMPLES is the workdir of experiments.generate. D becomes the dataset: train.jsonl, a TFDS set, card.json and README.md;
beside it summary.json, metrics.jsonl and plots. Text in, text out: no model is loaded but a judge that the
config names. A command that was ended at any moment goes on when it is given again, and ends with the same bytes.
"""

import collections
import concurrent.futures.process
import contextlib
import functools
import json
import logging
import pathlib
import resource
import shutil
import sqlite3
import time

import jax

from r1jax import config as config_lib
from r1jax import data, rewards
from r1jax.data.shards import digest
from r1jax.metrics import plots
from r1jax.metrics.writer import Writer, read_metrics
from r1jax.parallel import interrupt
from r1jax.recipes import contamination, dataset, filters, rejection
from r1jax.rewards.neural import judge
from r1jax.runs import cli, json_files, runtime
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import exclusive

log = logging.getLogger('r1jax')

STATE = 'state'  # the folder of a pass under way
PANELS = (
  plots.Panel('memory', 'Memory along the way', 'MiB', r'memory/(rss)'),
  plots.Panel('rows', 'Rows kept', 'rows', r'rows/(kept)'),
)


def sources(cfg):
  """A filters.Source for the samples and each set that is merged, in that order. Raises DataError, ConfigError."""
  config_lib.require(cfg.samples or cfg.merge, 'samples and merge are both empty; name what is to be curated.')
  for name, m in cfg.merge.items():
    config_lib.require(m.path, f'merge.{name}.path is empty; name its rows with --config.merge.{name}.path=PATH.')
  found = [filters.Source('samples', tuple(map(str, dataset.files(cfg.samples))), True)] if cfg.samples else []
  return found + [
    filters.Source(name, tuple(map(str, dataset.files(m.path))), False, m.limit, m.kind, m.language)
    for name, m in cfg.merge.items()
  ]


def load_judge(cfg):
  if not cfg.judged:
    return None
  rewards.check_options('judge', judge.load, cfg.judge)
  return judge.load(**cfg.judge)


def memory():
  """MiB that this process holds now."""
  try:
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 2**20
  except OSError:  # no Linux: its largest so far
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def made_by(source):
  """What a source says of itself: the policy that was sampled, or the name and version of a dataset; '' for none."""
  folder = pathlib.Path(source.paths[0]).parent
  if source.sampled:
    return ', '.join(texts(folder.parent / 'summary.json', 'config/model/path', 'policy'))
  card = folder / dataset.CARD
  return ', '.join(filter(None, [' '.join(texts(card, 'name', 'version')), *texts(card, 'sha256')]))


def texts(path, *keys):
  """The texts that stand in a JSON file under keys like 'config/model/path': of those that are there."""
  try:
    made = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return []
  inner = lambda found, key: found.get(key) if isinstance(found, dict) else None
  found = [functools.reduce(inner, key.split('/'), made) for key in keys]
  return [text for text in found if text and isinstance(text, str)]


def run_pass(rows, writer):
  """Runs a rejection.Pass to its end, with what it holds and how fast it is on record; returns what it counted."""
  began, first = time.perf_counter(), rows.now['read']
  writer.resume(first + 1)
  if first:  # a death between a chunk and its record, or there might be none
    writer.write(first, {'memory/rss': memory(), 'rows/kept': rows.now['rows']})

  def report(now):
    pace = (now['read'] - first) / (time.perf_counter() - began)
    writer.write(now['read'], {'memory/rss': memory(), 'rows/kept': now['rows'], 'throughput/lines_per_second': pace})
    log.info('%d lines read, %d rows kept, %.0f MiB, %.0f lines a second', now['read'], now['rows'], memory(), pace)
    interrupt.raise_if_stopped(f'{now["read"]} lines are read; run the same command again to go on.')

  return rows.run(report)


@contextlib.contextmanager
def defects_of_the_machine(folder):
  """What else can end a pass in a folder, as errors of one line."""
  try:
    yield
  except sqlite3.OperationalError as error:
    raise data.DataError(
      f'the tables in {folder} cannot be used: {error}; end whatever else works there, make room, '
      'and run the same command again.'
    ) from error
  except sqlite3.DatabaseError as error:
    raise data.DataError(
      f'the tables in {folder} are damaged: {error}; remove that folder and run the same command '
      'again, which then begins anew.'
    ) from error
  except concurrent.futures.process.BrokenProcessPool as error:
    raise data.DataError(
      'a worker process was ended, as when memory is short; run the same command again, with '
      'less --config.workers if need be.'
    ) from error


def card_of(cfg, now, found, made, hashes, problems, sha256):
  """What the dataset is and what it comes from, as a dict for `dataset.write_card`."""
  of = []
  for source in found:
    count = now['sources'].get(source.name, {'kept': 0, 'dropped': {}})
    of.append(
      {
        'name': source.name,
        'path': cfg.samples if source.sampled else cfg.merge[source.name].path,
        'read': count['kept'] + sum(count['dropped'].values()),
        **count,
        'made_by': made[source.name],
        'sha256': hashes[source.name],
      }
    )
  return {
    'name': cfg.name,
    'version': cfg.version,
    'rows': now['rows'],
    'bytes': now['bytes'],
    'sha256': sha256,
    'characters': sum(kind['characters'] for kind in now['kinds'].values()),
    'shards': -(-now['rows'] // cfg.shard),
    'kinds': now['kinds'],
    'sources': of,
    'reasons': list(filters.REASONS),
    'per_prompt': cfg.per_prompt,
    'filters': config_lib.to_dict(cfg.filters),
    'judged': list(cfg.judged),
    'window': cfg.window,
    'overlap': cfg.overlap,
    'evaluation': [
      {
        'name': entry,
        'problems': problems[entry],
        'sha256': hashes.get(entry, ''),
        'dropped': now['contaminated'].get(entry, 0),
      }
      for entry in cfg.evaluation
    ],
  }


@exclusive
def run_curate(cfg, workdir):
  """Writes the dataset, its card, summary.json and plots into workdir. Returns the summary."""
  runtime.set_up_process()
  config_lib.require(jax.process_count() == 1, 'several processes would write the same dataset; start one.')
  began, workdir, found, decide = time.perf_counter(), pathlib.Path(workdir), sources(cfg), load_judge(cfg)
  hashes = {source.name: digest(source.paths) for source in found}
  made = {source.name: made_by(source) for source in found}
  hashes |= {entry: digest(dataset.files(entry)) for entry in cfg.evaluation if not dataset.generated(entry)}
  settings = {key: value for key, value in config_lib.to_dict(cfg).items() if key != 'workers'}
  settings['judge'] = {key: value for key, value in settings['judge'].items() if key not in config_lib.CLIENT_OPTIONS}
  begin = lambda: settings_lib.require_same_settings(str(workdir / 'curate.json'), settings | {'sha256': hashes})
  if (workdir / 'summary.json').exists():
    begin()
    shutil.rmtree(workdir / STATE, ignore_errors=True)
    return json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  held_out = [((entry, name), text) for entry in cfg.evaluation for name, text in dataset.held_out(entry)]
  problems = collections.Counter(entry for (entry, _), _ in held_out)
  index = contamination.Index(held_out, cfg.window, cfg.overlap)
  workdir.mkdir(parents=True, exist_ok=True)
  begin()  # after all that a mistaken config ends with
  with (
    defects_of_the_machine(workdir / STATE),
    Writer(workdir) as writer,
    contextlib.closing(rejection.Pass(workdir / STATE, cfg, found, index, decide)) as rows,
  ):
    now = run_pass(rows, writer)
  if not now['rows']:
    first = ', '.join(f'{reason}: {names[0]}' for reason, names in now['examples'].items())
    raise data.DataError(
      f'no row is left of {now["read"]}; dropped: {dropped(now)}, such as {first}; see to these, '
      'or loosen the filters and use another --workdir.'
    )
  if (rows := workdir / STATE / rejection.ROWS).exists():
    rows.replace(workdir / dataset.ROWS)
  sha256 = digest([workdir / dataset.ROWS])
  dataset.write_records(workdir, cfg, now['rows'], f'{now["rows"]} rows to learn from; SHA-256 {sha256}.')
  card = card_of(cfg, now, found, made, hashes, problems, sha256)
  dataset.write_card(workdir, card)
  summary = {
    'rows': now['rows'],
    'read': now['read'],
    'dropped': dropped(now),
    'examples': now['examples'],
    'kinds': now['kinds'],
    'sha256': sha256,
    'sources': card['sources'],
    'memory': draw(workdir),
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(str(workdir / 'summary.json'), summary)
  shutil.rmtree(workdir / STATE)
  return summary


def draw(workdir):
  """Draws memory and rows over the lines read. Returns the MiB after the first chunk and the last, and the most."""
  records = read_metrics(workdir)
  figures = plots.figures(records, PANELS)
  for figure in figures.values():
    figure.axes[0].set(xlabel='lines read')
    figure.axes[0].margins(y=0.2)
  plots.save(workdir, figures)
  held = [record['memory/rss'] for record in records]
  return {
    'first': held[0],
    'last': held[-1],
    'most': max(held),
    'most_of_a_worker': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10,
  }


def dropped(now):
  """{reason: rows dropped for it}, of all sources."""
  return dict(
    sum((collections.Counter(source['dropped']) for source in now['sources'].values()), collections.Counter())
  )


def describe(summary, workdir):
  reasons = ', '.join(f'{reason} {summary["dropped"].get(reason, 0)}' for reason in filters.REASONS)
  return f'{workdir}: {summary["rows"]} of {summary["read"]} rows kept; dropped: {reasons}'


if __name__ == '__main__':
  cli.main(run_curate, config_lib.Curate, 'What becomes the dataset.', describe)
