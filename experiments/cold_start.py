"""Collects cold-start data: long, readable chains of thought with a summary (see r1jax.recipes.coldstart).

  python -m experiments.cold_start --config configs/cold_start.py:toy --config.ways.zero.model.path=ZERO \\
      --config.ways.few_shot.model.path=BASE --config.ways.direct.model.path=BASE --workdir D

D/train.jsonl holds the rows to train on, one way after another; D/card.json says where they come from and why samples
were dropped; D/NAME/samples holds the samples of a way, in the format of experiments.generate. If a command is stopped,
the same command continues where it was and ends with the same bytes.
"""

import collections
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import logging
import os
from typing import Any

from r1jax import config as config_lib
from r1jax import parallel, templates
from r1jax.data import reader, shards
from r1jax.recipes import coldstart, dataset, wordings
from r1jax.rewards import mix, needs
from r1jax.runs import cli, generation, grading, json_files, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import exclusive

log = logging.getLogger('r1jax')

ROWS = 'train.jsonl'
DONE = 'done.json'  # written once a way has sampled: the number of problems, and of those dropped


def make_rules(cfg, way):
  """The coldstart.Rules for one way of a config.ColdStart."""
  shared = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(coldstart.Rules) if f.name != 'keep'}
  return coldstart.Rules(keep=way.keep, **shared)


def make_template(cfg, way):
  """The prompt template of a way."""
  examples = wordings.read_examples(way.examples) if way.examples else ()
  return coldstart.make_prompt(
    way.way, cfg.wording, chat=way.chat, shots=way.shots, examples=examples, template=way.template
  )


def generate_config(cfg, index, way):
  """The config.Generate with which a way samples.

  A model with few-shot examples is stopped where it begins another problem.

  Args:
    index: position of the way in cfg.ways; the seed is cfg.seed + index.
  """
  r = way.rollout
  if way.way == 'few_shot' and way.model.path:
    ends = [end for wording in wordings.WORDINGS[cfg.wording].values() for end in wording.ends]
    r = dataclasses.replace(r, stop=(*r.stop, *dict.fromkeys(ends)))
  return config_lib.Generate(
    cfg.seed + index, way.model, cfg.data, r, cfg.reward, cfg.split, cfg.problems, way.endpoint, mesh=cfg.mesh
  )


def samples_folder(workdir, name, way):
  """The folder that holds the samples of a way, or will hold them."""
  external = way.path if way.way == 'readable' else ''
  folder = os.path.join(external or os.path.join(workdir, name), generation.SAMPLES)
  return folder if not external or os.path.isdir(folder) else external


def sample_way(cfg, name, workdir):
  """Produces the samples of one way, unless they exist already."""
  way, folder = cfg.ways[name], samples_folder(workdir, name, cfg.ways[name])
  if way.way == 'readable' and way.path:
    shards.files(folder)  # raises DataError if some are missing
  elif way.way == 'traces':
    _grade_traces(cfg, way, folder)
  else:
    _sample_policy(cfg, name, workdir, folder)


def _sample_policy(cfg, name, workdir, folder):
  """Samples a way's policy, model or endpoint, into `folder`."""
  index, way, out = list(cfg.ways).index(name), cfg.ways[name], os.path.join(workdir, name)
  way_cfg = generate_config(cfg, index, way)
  settings = generation.settings(way_cfg, generation.policy_name(way_cfg)) | {
    'way': config_lib.to_dict(way) | {'endpoint': {}, 'rollout': {}},  # generation.settings has these two
    'text': cfg.wording,
  }
  if way.drafts:
    rules = make_rules(cfg, cfg.ways[way.drafts])
    draft_rows = way_rows(cfg, way.drafts, workdir, collections.Counter())
    drafts = [coldstart.to_draft(row, rules) for row in draft_rows]
    settings['drafts'] = hashlib.sha256(json.dumps(drafts).encode()).hexdigest()
  done = os.path.join(out, DONE)
  settings_lib.require_same_settings(os.path.join(out, 'generate.json'), settings)
  if parallel.broadcast_from_primary(os.path.exists(done)):
    return
  log.info('cold start: %s', name)
  policy, grader = generation.make_policy(way_cfg, out)
  template = make_template(cfg, way)
  with grader, runtime.exit_together():
    if way.drafts:
      problems = [draft for draft in drafts if policy.fits(draft, template)]
      config_lib.require(
        problems,
        f'ways.{name} has nothing to rewrite: ways.{way.drafts} has {len(drafts)} '
        f'rows{", none of them short enough" * bool(drafts)}.',
      )
      dropped = {'long': len(drafts) - len(problems)}
    else:
      problems, dropped = generation.load_problems(way_cfg, policy, template, own_template=way.way == 'readable')
    generation.write_files(way_cfg, folder, problems, generation.start_sampling(policy, template))
  json_files.write_json(done, {'problems': len(problems), 'dropped': dropped})


def _read_traces(cfg, way):
  """Reads the responses of a way 'traces' as samples, without excluded and contaminated problems."""
  check_scorable = needs.checker(cfg.reward)

  def check(row):
    for field in ('problem', 'reasoning', 'response'):
      if not isinstance(row.get(field), str):
        raise ValueError(f"no text in field '{field}'")
    if row.get('answer') is not None:
      check_scorable(row)

  config_lib.require(way.path, "the way traces needs 'path', a JSON Lines file of traces.")
  rows = [row for row in reader.read_rows(way.path, check) if not (way.exclude and row.get(way.exclude))]
  rows, contaminated = dataset.decontaminated(rows, cfg.data.evaluation) if cfg.data.evaluation else (rows, {})
  if contaminated:
    log.warning(
      'data.evaluation: dropped %d traces whose problem contains an evaluation problem: %s.',
      sum(contaminated.values()),
      contaminated,
    )
  rows = rows[: cfg.problems or None]
  config_lib.require(
    rows, f'{way.path} holds no traces, or all have {way.exclude!r} set or contain a problem of data.evaluation.'
  )
  base = os.path.basename(way.path)
  without_nulls = lambda row: {k: v for k, v in row.items() if v is not None or k not in ('id', 'answer')}
  return [coldstart.trace_to_sample({'id': f'{base}:{n}'} | without_nulls(row)) for n, row in enumerate(rows, 1)]


def _grade_traces(cfg, way, folder):
  """Grades existing responses into `folder`; those to problems without an answer count as right."""
  items = _read_traces(cfg, way)
  grader, reward_models = grading.make_graders(cfg.reward)
  config_lib.require(not reward_models, f'traces are graded by rules only, not by {", ".join(reward_models)}.')
  settings_lib.require_same_settings(
    os.path.join(os.path.dirname(folder), 'generate.json'),
    {
      'traces': os.path.basename(way.path),
      'sha256': shards.digest([way.path]),
      'exclude': way.exclude,
      'prompts': way.rollout.prompts,
      'reward': settings_lib.reward_identity(cfg.reward),
    }
    | ({'evaluation': list(cfg.data.evaluation)} if cfg.data.evaluation else {}),
  )
  sizes = config_lib.Generate(cfg.seed, config_lib.Model('-'), cfg.data, way.rollout, cfg.reward)

  def start(batch, _):
    answered = [item for item in batch if 'answer' in item]
    pending = grader.submit(answered, mix.weights(answered, cfg.reward))
    return lambda: _with_scores(batch, answered, pending.result().parts, cfg.reward)

  with grader:
    generation.write_files(sizes, folder, items, start)


def _with_scores(items, answered, parts, reward):
  """Adds reward and correctness to the items; parts: {reward: scores} of the `answered` ones among them."""
  weights = mix.weights(answered, reward)
  totals, right = mix.total(parts, reward, weights), mix.right(parts, reward, answered)
  scored = iter(range(len(answered)))
  samples = []
  for item in items:
    if 'answer' not in item:
      samples.append(item | {'reward': 0.0, 'parts': {}, 'correct': True})
      continue
    row = next(scored)
    own = {name: float(parts[name][row]) for name in weights[row]}
    samples.append(item | {'reward': float(totals[row]), 'parts': own, 'correct': bool(right[row])})
  return samples


def way_rows(cfg, name, workdir, dropped) -> Iterator[Any]:
  """Yields the rows of a way from its samples; the Counter `dropped` counts the reasons why others have no row."""
  way = cfg.ways[name]
  samples = shards.read(samples_folder(workdir, name, way))
  return coldstart.select_rows(samples, way.way, make_rules(cfg, way), dropped, name)


@exclusive
def run_cold_start(cfg, workdir):
  """Samples all ways, filters the samples and writes the rows. Returns the summary, which is also the card."""
  runtime.set_up_process()
  config_lib.require(
    cfg.wording in wordings.WORDINGS, f'wording is {cfg.wording!r}; known: {", ".join(wordings.WORDINGS)}.'
  )
  problems_lib.get_template('data', cfg.data)  # check all templates before anything is sampled
  for way in cfg.ways.values():
    if way.way != 'traces':
      make_template(cfg, way)
  for name in sorted(cfg.ways, key=lambda name: bool(cfg.ways[name].drafts)):  # drafts first
    sample_way(cfg, name, workdir)
  os.makedirs(workdir, exist_ok=True)
  draft_ways, statistics = {way.drafts for way in cfg.ways.values()}, {}
  path = os.path.join(workdir, ROWS)
  with open(path + '.tmp' if parallel.is_primary() else os.devnull, 'w', encoding='utf-8', newline='\n') as f:
    for name in cfg.ways:
      count, dropped = collections.Counter(), collections.Counter()
      for row in way_rows(cfg, name, workdir, dropped):
        thinking = coldstart.to_draft(row, make_rules(cfg, cfg.ways[name]))['draft']
        count.update(
          {
            'rows': 1,
            f'language/{row["language"]}': 1,
            'characters': len(thinking),
            'reflects': templates.reflections(thinking) > 0,
          }
        )
        if isinstance(row.get('kind'), str):
          count[f'kind/{row["kind"]}'] += 1
        if name not in draft_ways:
          f.write(json.dumps(row, ensure_ascii=False) + '\n')
      statistics[name] = dict(count) | {'dropped': dict(dropped), 'part': name not in draft_ways}
      done = os.path.join(workdir, name, DONE)
      if os.path.exists(done):
        with open(done, encoding='utf-8') as done_file:
          statistics[name]['asked'] = json.load(done_file)
  return _finish(cfg, workdir, path, statistics)


def _finish(cfg, workdir, path, statistics):
  """Moves the rows to their final path and writes the card, and last the summary."""
  written = sum(s.get('rows', 0) for s in statistics.values() if s['part'])
  config_lib.require(written, f'no sample is fit to train on: {json.dumps(statistics)}; see {workdir}/*/samples.')
  if parallel.is_primary():
    os.replace(path + '.tmp', path)
  parallel.broadcast_from_primary(True)  # wait until the file is there for all processes
  summary = {
    'name': 'cold_start',
    'version': '1.0.0',
    'rows': written,
    'ways': statistics,
    'sha256': shards.digest([path]),
    'seed': cfg.seed,
    'policies': {
      name: generation.policy_name(generate_config(cfg, index, way))
      for index, (name, way) in enumerate(cfg.ways.items())
      if way.model.path or way.endpoint
    },
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'card.json'), summary)
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def describe(summary, workdir):
  ways = [f'{name}: {w.get("rows", 0)} rows; dropped: {w["dropped"]}' for name, w in summary['ways'].items()]
  return '\n'.join([*ways, f'{workdir}/{ROWS}: {summary["rows"]} rows'])


if __name__ == '__main__':
  cli.main(run_cold_start, config_lib.ColdStart, 'The folder for samples and rows.', describe)
