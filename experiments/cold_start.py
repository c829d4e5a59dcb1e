"""Cold-start data: long, readable chains of thought with a summary, in the paper's ways (see r1jax.recipes.coldstart).

  python -m experiments.cold_start --config configs/cold_start.py:toy --config.ways.zero.model.path=ZERO \\
      --config.ways.few_shot.model.path=BASE --config.ways.direct.model.path=BASE --workdir D

D/train.jsonl holds the rows to learn from, way after way; D/card.json says where they come from and why samples were
dropped; D/NAME/samples holds what a way has sampled, in files as experiments.generate writes them. A command that was
ended goes on where it was, and ends with the same bytes.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import os

from experiments import generate
from r1jax import config as config_lib
from r1jax import parallel, templates
from r1jax.data import reader, shards
from r1jax.recipes import coldstart, dataset, wordings
from r1jax.rewards import mix, needs
from r1jax.runs import cli, grading, json_files, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import exclusive

log = logging.getLogger('r1jax')

ROWS = 'train.jsonl'
DONE = 'done.json'  # of a way that has sampled: how many problems, and how many were left out


def rules(cfg, way):
  """coldstart.Rules of a config.ColdStart, for one of its ways."""
  own = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(coldstart.Rules) if f.name != 'keep'}
  return coldstart.Rules(keep=way.keep, **own)


def template(cfg, way):
  """What a way's policy is asked."""
  examples = wordings.read_examples(way.examples) if way.examples else ()
  return coldstart.prompt(
    way.way, cfg.wording, chat=way.chat, shots=way.shots, examples=examples, template=way.template
  )


def to_generate(cfg, number, way):
  """The config.Generate by which a way samples; a model with examples is stopped where another problem begins."""
  r = way.rollout
  if way.way == 'few_shot' and way.model.path:
    ends = [end for wording in wordings.WORDINGS[cfg.wording].values() for end in wording.ends]
    r = dataclasses.replace(r, stop=(*r.stop, *dict.fromkeys(ends)))
  return config_lib.Generate(
    cfg.seed + number, way.model, cfg.data, r, cfg.reward, cfg.split, cfg.problems, way.endpoint, mesh=cfg.mesh
  )


def folder_of(workdir, name, way):
  """Where the samples of a way are, or will be."""
  given = way.path if way.way == 'readable' else ''
  inside = os.path.join(given or os.path.join(workdir, name), generate.SAMPLES)
  return inside if not given or os.path.isdir(inside) else given


def sample(cfg, name, workdir):
  """Samples what one way needs, unless it is there."""
  number, way = list(cfg.ways).index(name), cfg.ways[name]
  out = os.path.join(workdir, name)
  if way.way == 'readable' and way.path:
    shards.files(folder_of(workdir, name, way))  # says what is missing
    return
  if way.way == 'traces':
    _traces(cfg, way, folder_of(workdir, name, way))
    return
  wanted = to_generate(cfg, number, way)
  settings = generate.settings(wanted, generate.name_of(wanted)) | {
    'way': config_lib.to_dict(way) | {'endpoint': {}, 'rollout': {}},
    'text': cfg.wording,
  }  # these stand beside it
  if way.drafts:
    of = rules(cfg, cfg.ways[way.drafts])
    drafts = [coldstart.draft(row, of) for row in rows(cfg, way.drafts, workdir, collections.Counter())]
    settings['drafts'] = hashlib.sha256(json.dumps(drafts).encode()).hexdigest()
  done = os.path.join(out, DONE)
  settings_lib.require_same_settings(os.path.join(out, 'generate.json'), settings)
  if parallel.broadcast_from_primary(os.path.exists(done)):
    return
  log.info('cold start: %s', name)
  policy, grader = generate.start(wanted, out)
  asked = template(cfg, way)
  with grader, runtime.exit_together():
    if way.drafts:
      problems = [problem for problem in drafts if policy.fits(problem, asked)]
      config_lib.require(
        problems,
        f'ways.{way.drafts} has {len(drafts)} rows{", none short enough" * bool(drafts)}: there '
        f'is nothing for ways.{name} to rewrite.',
      )
      dropped = {'long': len(drafts) - len(problems)}
    else:
      problems, dropped = generate.problems_of(wanted, policy, asked, own_template=way.way == 'readable')
    generate.write(wanted, folder_of(workdir, name, way), problems, generate.sampled(policy, asked))
  json_files.write_json(done, {'problems': len(problems), 'dropped': dropped})


def _traces(cfg, way, folder):
  """Grades responses that are there; those of problems without an answer count as right."""
  scored = needs.checker(cfg.reward)

  def check(row):
    for field in ('problem', 'reasoning', 'response'):
      if not isinstance(row.get(field), str):
        raise ValueError(f"no text in field '{field}'")
    if row.get('answer') is not None:
      scored(row)

  config_lib.require(way.path, "the way traces needs 'path', the JSON Lines file of them.")
  found = [row for row in reader.read_rows(way.path, check) if not (way.exclude and row.get(way.exclude))]
  found, near = dataset.decontaminated(found, cfg.data.evaluation) if cfg.data.evaluation else (found, {})
  if near:
    log.warning('dropped %d traces of problems near ones of data.evaluation: %s.', sum(near.values()), near)
  found = found[: cfg.problems or None]
  config_lib.require(
    found, f'{way.path} holds no trace, or none without {way.exclude!r} and apart from data.evaluation.'
  )
  base = os.path.basename(way.path)
  said = lambda row: {k: v for k, v in row.items() if v is not None or k not in ('id', 'answer')}
  items = [coldstart.trace({'id': f'{base}:{n}'} | said(row)) for n, row in enumerate(found, 1)]
  grader, by_model = grading.graders(cfg.reward)
  config_lib.require(not by_model, f'traces are graded by rule alone, not by {", ".join(by_model)}.')
  settings_lib.require_same_settings(
    os.path.join(os.path.dirname(folder), 'generate.json'),
    {
      'traces': base,
      'sha256': shards.digest([way.path]),
      'exclude': way.exclude,
      'prompts': way.rollout.prompts,
      'reward': settings_lib.reward_identity(cfg.reward),
    }
    | ({'evaluation': list(cfg.data.evaluation)} if cfg.data.evaluation else {}),
  )
  sizes = config_lib.Generate(cfg.seed, config_lib.Model('-'), cfg.data, way.rollout, cfg.reward)

  def begin(some, _):
    known = [item for item in some if 'answer' in item]
    graded = grader.submit(known, mix.weights(known, cfg.reward))
    return lambda: _graded(some, known, graded.result().parts, cfg.reward)

  with grader:
    generate.write(sizes, folder, items, begin)


def _graded(items, known, table, reward):
  asked = mix.weights(known, reward)
  found = iter(zip(mix.total(table, reward, asked), mix.right(table, reward, known)) if known else ())
  out = []
  for item in items:
    score, right = next(found) if 'answer' in item else (0.0, True)
    out.append(item | {'reward': float(score), 'parts': {}, 'correct': bool(right)})
  return out


def rows(cfg, name, workdir, dropped):
  """Yields the rows of a way whose samples are there; adds up in `dropped` why others are none."""
  way = cfg.ways[name]
  samples = shards.read(folder_of(workdir, name, way))
  return coldstart.each(samples, way.way, rules(cfg, way), dropped, name)


@exclusive
def run_cold_start(cfg, workdir):
  """Samples, filters and writes. Returns the summary, which is also the set's card."""
  runtime.set_up_process()
  config_lib.require(
    cfg.wording in wordings.WORDINGS, f'wording is {cfg.wording!r}; known: {", ".join(wordings.WORDINGS)}.'
  )
  problems_lib.template_of('data', cfg.data)  # before anything is sampled, and the ways' too
  for way in cfg.ways.values():
    if way.way != 'traces':
      template(cfg, way)
  for name in sorted(cfg.ways, key=lambda name: bool(cfg.ways[name].of)):  # drafts first
    sample(cfg, name, workdir)
  os.makedirs(workdir, exist_ok=True)
  drafts, figures = {way.drafts for way in cfg.ways.values()}, {}
  path = os.path.join(workdir, ROWS)
  with open(path + '.tmp' if parallel.is_primary() else os.devnull, 'w', encoding='utf-8', newline='\n') as f:
    for name in cfg.ways:
      count, dropped = collections.Counter(), collections.Counter()
      for row in rows(cfg, name, workdir, dropped):
        thinking = coldstart.draft(row, rules(cfg, cfg.ways[name]))['draft']
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
        if name not in drafts:
          f.write(json.dumps(row, ensure_ascii=False) + '\n')
      figures[name] = dict(count) | {'dropped': dict(dropped), 'part': name not in drafts}
      about = os.path.join(workdir, name, DONE)
      if os.path.exists(about):
        with open(about, encoding='utf-8') as done:
          figures[name]['asked'] = json.load(done)
  return _finished(cfg, workdir, path, figures)


def _finished(cfg, workdir, path, figures):
  """Puts the rows in their place, with their card, and the summary last."""
  written = sum(f.get('rows', 0) for f in figures.values() if f['part'])
  config_lib.require(written, f'no sample can be learned from: {json.dumps(figures)}; see {workdir}/*/samples.')
  if parallel.is_primary():
    os.replace(path + '.tmp', path)
  parallel.broadcast_from_primary(True)  # it is there for all
  summary = {
    'name': 'cold_start',
    'version': '1.0.0',
    'rows': written,
    'ways': figures,
    'sha256': shards.digest([path]),
    'seed': cfg.seed,
    'policies': {
      name: generate.name_of(to_generate(cfg, n, way))
      for n, (name, way) in enumerate(cfg.ways.items())
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
  cli.main(run_cold_start, config_lib.ColdStart, 'Where everything is kept.', describe)
