"""Turns samples into a training dataset: rejection sampling, filters, dedup, decontamination, and a dataset card.

  python -m experiments.curate --config configs/curate.py:toy --config.samples=SAMPLES --workdir D

SAMPLES is the workdir of experiments.generate. D becomes the dataset: train.jsonl, a TFDS dataset, card.json and
README.md; it also holds summary.json, metrics.jsonl and plots. No model is loaded, other than a judge that the config
names. If a command is stopped at any moment, the same command continues it and ends with the same bytes.
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

STATE = 'state'  # subfolder of an unfinished pass
PANELS = (
  plots.Panel('memory', 'Memory along the way', 'MiB', r'memory/(rss)'),
  plots.Panel('rows', 'Rows kept', 'rows', r'rows/(kept)'),
)


def make_sources(cfg):
  """The filters.Source of the samples, then one for each dataset that is merged. Raises DataError, ConfigError."""
  config_lib.require(cfg.samples or cfg.merge, 'samples and merge are both empty; name the rows to curate.')
  for name, m in cfg.merge.items():
    config_lib.require(m.path, f'merge.{name}.path is empty; set it with --config.merge.{name}.path=PATH.')
  samples = [filters.Source('samples', tuple(map(str, dataset.files(cfg.samples))), True)] if cfg.samples else []
  return samples + [
    filters.Source(name, tuple(map(str, dataset.files(m.path))), False, m.limit, m.kind, m.language)
    for name, m in cfg.merge.items()
  ]


def load_judge(cfg):
  """The judge of a config.Curate, a function from samples to scores; None if it judges no kinds."""
  if not cfg.judged:
    return None
  rewards.check_options('judge', judge.Judge, cfg.judge)
  return judge.Judge(**cfg.judge)


def memory():
  """Resident memory of this process, in MiB."""
  try:
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 2**20
  except OSError:  # not Linux: the peak so far
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def describe_source(source):
  """The origin of a source: the policy that was sampled, or the name and version of a dataset; '' if unknown."""
  folder = pathlib.Path(source.paths[0]).parent
  if source.sampled:
    return ', '.join(read_texts(folder.parent / 'summary.json', 'config/model/path', 'policy'))
  card = folder / dataset.CARD
  return ', '.join(filter(None, [' '.join(read_texts(card, 'name', 'version')), *read_texts(card, 'sha256')]))


def read_texts(path, *keys):
  """The non-empty texts of a JSON file under keys like 'config/model/path'; missing ones are skipped."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return []
  get = lambda tree, key: tree.get(key) if isinstance(tree, dict) else None
  values = [functools.reduce(get, key.split('/'), content) for key in keys]
  return [value for value in values if value and isinstance(value, str)]


def run_pass(curation, writer):
  """Runs a rejection.Pass to its end, and records memory, rows and speed after each chunk. Returns its state."""
  began, first = time.perf_counter(), curation.state['read']
  writer.resume(first + 1)
  if first:  # the command may have died after its last chunk but before recording it
    writer.write(first, {'memory/rss': memory(), 'rows/kept': curation.state['rows']})

  def report(state):
    read, kept, speed = state['read'], state['rows'], (state['read'] - first) / (time.perf_counter() - began)
    writer.write(read, {'memory/rss': memory(), 'rows/kept': kept, 'throughput/lines_per_second': speed})
    log.info('%d lines read, %d rows kept, %.0f MiB, %.0f lines/s', read, kept, memory(), speed)
    interrupt.raise_if_stopped(f'{read} lines are read; run the same command again to continue.')

  return curation.run(report)


@contextlib.contextmanager
def machine_errors(folder):
  """Within, database errors and killed workers become a DataError with one line."""
  try:
    yield
  except sqlite3.OperationalError as error:
    raise data.DataError(
      f'the database in {folder} cannot be used: {error}; stop any other command that uses it, free disk space, '
      'and run the same command again.'
    ) from error
  except sqlite3.DatabaseError as error:
    raise data.DataError(
      f'the database in {folder} is damaged: {error}; remove that folder and run the same command '
      'again, which then starts from the beginning.'
    ) from error
  except concurrent.futures.process.BrokenProcessPool as error:
    raise data.DataError(
      'a worker process was killed, perhaps for lack of memory; run the same command again, with '
      'fewer --config.workers if necessary.'
    ) from error


def make_card(cfg, state, sources, origins, hashes, problems, sha256):
  """The dataset's description and origin, as a dict for `dataset.write_card`.

  Args:
    cfg: config.Curate.
    state: of the finished rejection.Pass.
    sources: list of filters.Source.
    origins: {source: where it comes from, see `describe_source`}.
    hashes: {source or evaluation entry: SHA-256 of its files}.
    problems: {evaluation entry: number of problems}.
    sha256: of the rows.
  """
  source_cards = []
  for source in sources:
    count = state['sources'].get(source.name, {'kept': 0, 'dropped': {}})
    source_cards.append(
      {
        'name': source.name,
        'path': cfg.samples if source.sampled else cfg.merge[source.name].path,
        'read': count['kept'] + sum(count['dropped'].values()),
        **count,
        'made_by': origins[source.name],
        'sha256': hashes[source.name],
      }
    )
  return {
    'name': cfg.name,
    'version': cfg.version,
    'rows': state['rows'],
    'bytes': state['bytes'],
    'sha256': sha256,
    'characters': sum(kind['characters'] for kind in state['kinds'].values()),
    'shards': -(-state['rows'] // cfg.shard),
    'kinds': state['kinds'],
    'sources': source_cards,
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
        'dropped': state['contaminated'].get(entry, 0),
      }
      for entry in cfg.evaluation
    ],
  }


@exclusive
def run_curate(cfg, workdir):
  """Writes the dataset, its card, summary.json and plots into workdir. Returns the summary."""
  runtime.set_up_process()
  config_lib.require(jax.process_count() == 1, 'several processes would write the same dataset; start only one.')
  began, workdir, sources, score = time.perf_counter(), pathlib.Path(workdir), make_sources(cfg), load_judge(cfg)
  hashes = {source.name: digest(source.paths) for source in sources}
  origins = {source.name: describe_source(source) for source in sources}
  hashes |= {entry: digest(dataset.files(entry)) for entry in cfg.evaluation if not dataset.generated(entry)}
  settings = {key: value for key, value in config_lib.to_dict(cfg).items() if key != 'workers'}
  settings['judge'] = {key: value for key, value in settings['judge'].items() if key not in config_lib.CLIENT_OPTIONS}
  settings['sha256'] = hashes
  check_settings = lambda: settings_lib.require_same_settings(str(workdir / 'curate.json'), settings)
  if (workdir / 'summary.json').exists():
    check_settings()
    shutil.rmtree(workdir / STATE, ignore_errors=True)
    return json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  held_out = [((entry, name), text) for entry in cfg.evaluation for name, text in dataset.held_out(entry)]
  problems = collections.Counter(entry for (entry, _), _ in held_out)
  index = contamination.Index(held_out, cfg.window, cfg.overlap)
  workdir.mkdir(parents=True, exist_ok=True)
  check_settings()  # writes curate.json, so only after everything that refuses a bad config
  with (
    machine_errors(workdir / STATE),
    Writer(workdir) as writer,
    contextlib.closing(rejection.Pass(workdir / STATE, cfg, sources, index, score)) as curation,
  ):
    state = run_pass(curation, writer)
  if not state['rows']:
    examples = ', '.join(f'{reason}: {details[0]}' for reason, details in state['examples'].items())
    raise data.DataError(
      f'all {state["read"]} rows were dropped: {count_dropped(state)}; for example {examples}. Correct the rows, '
      'or loosen the filters and use another --workdir.'
    )
  if (rows_path := workdir / STATE / rejection.ROWS).exists():
    rows_path.replace(workdir / dataset.ROWS)
  sha256 = digest([workdir / dataset.ROWS])
  dataset.write_records(workdir, cfg, state['rows'], f'{state["rows"]} rows to learn from; SHA-256 {sha256}.')
  card = make_card(cfg, state, sources, origins, hashes, problems, sha256)
  dataset.write_card(workdir, card)
  summary = {
    'rows': state['rows'],
    'read': state['read'],
    'dropped': count_dropped(state),
    'examples': state['examples'],
    'kinds': state['kinds'],
    'sha256': sha256,
    'sources': card['sources'],
    'memory': plot_memory(workdir),
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(str(workdir / 'summary.json'), summary)
  shutil.rmtree(workdir / STATE)
  return summary


def plot_memory(workdir):
  """Plots memory and rows over the lines read. Returns the memory in MiB: after the first and last chunk, and peaks."""
  records = read_metrics(workdir)
  figures = plots.figures(records, PANELS)
  for figure in figures.values():
    figure.axes[0].set(xlabel='lines read')
    figure.axes[0].margins(y=0.2)
  plots.save(workdir, figures)
  rss = [record['memory/rss'] for record in records]
  return {
    'first': rss[0],
    'last': rss[-1],
    'most': max(rss),
    'most_of_a_worker': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10,
  }


def count_dropped(state):
  """{reason: number of dropped rows} over all sources."""
  return dict(
    sum((collections.Counter(source['dropped']) for source in state['sources'].values()), collections.Counter())
  )


def describe(summary, workdir):
  reasons = ', '.join(f'{reason} {summary["dropped"].get(reason, 0)}' for reason in filters.REASONS)
  return f'{workdir}: {summary["rows"]} of {summary["read"]} rows kept; dropped: {reasons}'


if __name__ == '__main__':
  cli.main(run_curate, config_lib.Curate, 'The folder that becomes the dataset.', describe)
