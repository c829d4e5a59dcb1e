"""Compares ways to search with a policy at inference: votes, best of n, beam search and MCTS over steps.

  python -m experiments.search --config configs/search.py:toy --config.model.path=DIR --workdir W

All methods work on the same problems. W/NAME.json holds what a method has found for each problem and budget;
W/table.md compares accuracy and sampled tokens, and W/accuracy_against_tokens.svg draws one over the other. A method
that is done is not run again.

Of searches over steps W/NAME.solutions.jsonl has the right responses, for SFT, and W/NAME.labels.jsonl all responses
with a label for each step, to train a process model: with `split='train'` what a next round can learn from.
"""

import contextlib
import dataclasses
import functools
import json
import os

import jax
import numpy as np

from r1jax import checkpoint, keys, parallel, rollout, search, templates, tokenizers
from r1jax import config as config_lib
from r1jax.data import process
from r1jax.evaluation import estimates
from r1jax.metrics import plots, search_plots, writer
from r1jax.parallel import interrupt
from r1jax.rewards import mix, votes
from r1jax.rewards.workers import pool
from r1jax.runs import cli, grading, json_files, policies, runtime
from r1jax.runs import settings as settings_lib
from r1jax.runs.problems import get_template, load_problems
from r1jax.runs.workdir import exclusive
from r1jax.sampling import SamplingParams
from r1jax.search import steps as steps_lib


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything a search needs; built by `make_run`."""

  cfg: config_lib.Search
  workdir: str
  problems: list
  tokenizer: tokenizers.Tokenizer
  template: templates.Template
  source: checkpoint.Source
  mesh: jax.sharding.Mesh
  grader: pool.Grader
  models: dict

  @property
  def sampling(self):
    r = self.cfg.rollout
    return SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p)

  def score(self, part, items):
    """Numbers from 0 to 1: the scores of items by a part of the reward."""
    if part in self.models:
      found = self.models[part](items)
    else:
      found = self.grader.submit(items, [{part: 1.0}] * len(items)).result().parts[part]
    return np.clip(np.asarray(found, np.float64), 0, 1).tolist()

  def right(self, items):
    """Whether each item is right: a list of bool."""
    names = {self.cfg.reward.accuracy_of(mix.kind_of(item)) for item in items}
    parts = {name: np.array(self.score(name, items), np.float32) for name in names if name}
    return mix.right(parts, self.cfg.reward, items).tolist()

  def voted(self, items):
    """The number of each item's answer among those of the same problem's items; None without an answer."""
    reward = self.cfg.reward
    part = reward.accuracy_of(mix.kind_of(items[0]))
    found = votes.groups([items], reward.function(part), reward.options.get(part), self.grader, part)
    return [None if n < 0 else n for n in found[0]]


def make_run(cfg, workdir):
  """Opens the policy, its problems and the scorers.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  runtime.set_up_process()
  config_lib.require(jax.process_count() == 1, 'a search runs in one process; start only one.')
  source = policies.open_policy(cfg.model.path)
  config_lib.check_context(cfg.rollout, source.cfg.context)
  tokenizer, template = source.load_tokenizer(cfg.data.chat_template or None), get_template('data', cfg.data)
  loaded = getattr(load_problems(cfg.data, cfg.reward), cfg.split)
  fits = lambda p: len(rollout.encode_prompt(tokenizer, template, p)[1]) <= cfg.rollout.max_prompt
  problems = [p for p in loaded if fits(p)][: cfg.problems]
  config_lib.require(
    problems, f'no problem of split {cfg.split!r} has a prompt within rollout.max_prompt {cfg.rollout.max_prompt}.'
  )
  grader, models = grading.make_graders(cfg.reward)
  for name, method in cfg.methods.items():
    config_lib.require(
      method.way in config_lib.SAMPLED or method.scorer in models,
      f'methods.{name}: {method.scorer!r} is a rule, which judges whole responses; a search over steps needs a model, '
      'such as reward `process` or `preference`.',
    )
  return Run(cfg, workdir, problems, tokenizer, template, source, parallel.make_mesh(cfg.mesh), grader, models)


def sample_all(run, weights, key):
  """rollout.samples whole responses to each problem.

  Returns:
    for each problem {'items', 'tokens', 'correct', 'voted', 'scores': {part: N numbers}}.
  """
  cfg, r = run.cfg, run.cfg.rollout
  engine = policies.make_engine(run.source.cfg, run.tokenizer, run.mesh, cfg.model.dtype, r)
  sampler = rollout.Sampler(engine, run.tokenizer, run.template, run.grader, cfg.reward, r.call, run.models)
  out = []
  for first in range(0, len(run.problems), r.prompts):
    interrupt.raise_if_stopped()
    problems = run.problems[first : first + r.prompts]
    drawn, pending = sampler.start(weights, problems, r.samples, key, run.sampling, number=first)
    scores = pending.result()
    correct = mix.right(scores.parts, cfg.reward, drawn.items)
    for i in range(len(problems)):
      rows = slice(i * r.samples, (i + 1) * r.samples)
      items = drawn.items[rows]
      out.append(
        {
          'tokens': drawn.batch.lengths[i].tolist(),
          'correct': correct[rows].tolist(),
          'voted': run.voted(items),
          'scores': {name: x[i].tolist() for name, x in scores.parts.items()},
        }
      )
  return out


def choose_sampled(method, samples):
  """Budgets of one problem for a method of config.SAMPLED: [{'budget', 'tokens', 'correct'}] for 1, 2, 4 ... samples.

  'tokens' and 'correct' are means over draws of so many of the samples.
  """
  total, correct, voted = len(samples['correct']), samples['correct'], samples['voted']
  if method.way == 'vote':
    chance = lambda n: estimates.cons_at_k(voted, correct, n)
  else:
    scores = samples['scores'][method.scorer]
    best, weighted = search.best_of, search.weighted_vote
    chance = lambda n: best(scores, correct, n) if method.way == 'best' else weighted(scores, voted, correct, n)
  mean = float(np.mean(samples['tokens']))
  return [{'budget': n, 'tokens': n * mean, 'correct': float(chance(n))} for n in powers(total)]


def powers(total):
  """1, 2, 4 ... up to `total`, which is included."""
  return sorted({1 << i for i in range(total.bit_length()) if 1 << i <= total} | {total})


def make_steps(run, weights, key, scorer):
  """The search.steps.Steps of a method."""
  cfg, r = run.cfg, run.cfg.rollout
  limits = dataclasses.replace(r, max_prompt=r.max_prompt + r.max_response, max_response=cfg.step_tokens)
  tokenizer = steps_lib.StepTokenizer(run.tokenizer, cfg.steps)
  engine = policies.make_engine(run.source.cfg, tokenizer, run.mesh, cfg.model.dtype, limits)
  prompts = [rollout.encode_prompt(run.tokenizer, run.template, p) for p in run.problems]
  return steps_lib.Steps(
    engine,
    weights,
    run.tokenizer,
    run.problems,
    prompts,
    limit=r.max_response,
    sampling=run.sampling,
    key=key,
    score=functools.partial(run.score, scorer),
  )


def chosen_right(run, steps, method, found):
  """Whether the answer chosen among complete responses to a problem is right. found: [(Prefix, value)]."""
  if not found:
    return False
  items = [steps.item(prefix) for prefix, _ in found]
  if method.choose == 'best':
    return run.right([max(zip(items, found), key=lambda pair: pair[1][1])[0]])[0]
  scores, n = [value for _, value in found], len(found)
  return bool(search.weighted_vote(scores, run.voted(items), run.right(items), n))


def write_solutions(run, steps, name, found):
  """Writes W/NAME.solutions.jsonl and W/NAME.labels.jsonl. found: complete responses to each problem, as Prefixes.

  The label of a step is the share of right ones among the complete responses that begin with it and all before it.
  """
  solutions, labelled = [], []
  for problem, prefixes in zip(run.problems, found, strict=True):
    items = [steps.item(prefix) for prefix in dict.fromkeys(prefixes)]
    texts, rights = [item['response'] for item in items], run.right(items) if items else []
    pieces = [[text[start:end] for start, end in process.spans(text, run.cfg.steps)] for text in texts]
    for text, own, right in zip(texts, pieces, rights, strict=True):
      row = problem | {'template': run.cfg.data.template, 'response': text}
      alike = lambda n, own=own, pieces=pieces: [other[:n] == own[:n] for other in pieces]
      labels = [float(np.mean([x for x, same in zip(rights, alike(n + 1)) if same])) for n in range(len(own))]
      solutions += [row] if right else []
      labelled += [row | {'steps': own, 'labels': labels}] if own else []
  for kind, rows in (('solutions', solutions), ('labels', labelled)):
    lines = [writer.dumps(row) + '\n' for row in rows]
    writer.replace_text(os.path.join(run.workdir, f'{name}.{kind}.jsonl'), ''.join(lines))


def search_steps(run, weights, key, name, method):
  """Results of a search over steps: for each problem its budgets as `choose_sampled` gives them, and the occupancy."""
  steps, count = make_steps(run, weights, key, method.scorer), len(run.problems)
  if method.way == 'beam':
    beams, tokens = search.beam_search(count, steps.extend, steps.value, width=method.width, samples=method.samples)
    budget = method.width * method.samples
    rows = [
      [{'budget': budget, 'tokens': n, 'correct': float(chosen_right(run, steps, method, found))}]
      for found, n in zip(beams, tokens)
    ]
    write_solutions(run, steps, name, [[prefix for prefix, _ in found] for found in beams])
    return rows, steps.occupancy
  trees = search.mcts(
    count,
    steps.extend,
    steps.value,
    simulations=method.simulations,
    extensions=method.samples,
    exploration=method.exploration,
  )
  rows = []
  for tree in trees:
    rows.append([])
    for budget in powers(method.simulations):
      found = [(prefix, value) for number, prefix, value in tree.found if number < budget]
      correct = chosen_right(run, steps, method, found)
      rows[-1].append({'budget': budget, 'tokens': tree.tokens[:budget][-1], 'correct': float(correct)})
  write_solutions(run, steps, name, [[prefix for _, prefix, _ in tree.found] for tree in trees])
  return rows, steps.occupancy


def summarise(results):
  """[{'method', 'budget', 'tokens', 'accuracy': [mean, low, high], 'occupancy'}].

  Args:
    results: {name: {'occupancy', 'runs': for each run the 'problems' of its W/NAME.json}}.
  """
  lines = []
  for name, result in results.items():
    for place, first in enumerate(result['runs'][0][0]['budgets']):
      rows = [[problem['budgets'][place] for problem in run] for run in result['runs']]
      accuracy = estimates.mean(np.array([[[row['correct']] for row in run] for run in rows]))[0]
      lines.append(
        {
          'method': name,
          'budget': first['budget'],
          'tokens': float(np.mean([row['tokens'] for run in rows for row in run])),
          'accuracy': [float(x) for x in accuracy],
          'occupancy': result['occupancy'],
        }
      )
  return lines


def markdown(lines, size):
  """The lines of `summarise` as a table. size: the numbers of runs and problems."""
  share = lambda x: f'{100 * x:.1f}'
  text = [
    '| method | budget | tokens a problem | right, % [95% interval] | slots in use, % |',
    '|---|---:|---:|---:|---:|',
  ]
  for line in lines:
    mean, low, high = map(share, line['accuracy'])
    used = '' if line['occupancy'] is None else share(line['occupancy'])
    text.append(f'| {line["method"]} | {line["budget"]} | {line["tokens"]:.0f} | {mean} [{low}, {high}] | {used} |')
  runs = f' and {size[0]} runs' if size[0] > 1 else ''
  return '\n'.join([*text, '', f'{size[1]} problems{runs}; intervals by bootstrap over these.', ''])


@exclusive
def run_search(cfg, workdir):
  """Runs the methods that are not done, and writes table and plot. Returns the lines of the table.

  Args:
    cfg: config.Search. workdir: W.
  """
  run = make_run(cfg, workdir)
  with contextlib.closing(run.grader), runtime.exit_together():
    settings_lib.require_same_settings(os.path.join(workdir, 'search.json'), identity(run))
    key, results, weights, samples = keys.fold_in(jax.random.key(cfg.seed), 0), {}, None, None
    for name, method in cfg.methods.items():
      path = os.path.join(workdir, f'{name}.json')
      made_by = config_lib.to_dict(method)
      results[name] = writer.read_object(path) if os.path.exists(path) else None
      if results[name] and results[name]['method'] == made_by:
        continue
      interrupt.raise_if_stopped(f'{name} is not done; run the same command again.')
      if weights is None:
        weights = load_weights(run)
      if method.way in config_lib.SAMPLED:
        samples = samples or sample_all(run, weights, key)
        rows, occupancy = [choose_sampled(method, x) for x in samples], None
      else:
        rows, occupancy = search_steps(run, weights, key, name, method)
      problems = [{'id': p['id'], 'budgets': budgets} for p, budgets in zip(run.problems, rows, strict=True)]
      results[name] = {'method': made_by, 'occupancy': occupancy, 'problems': problems}
      json_files.write_json(path, results[name])
  runs = {name: {'occupancy': x['occupancy'], 'runs': [x['problems']]} for name, x in results.items()}
  lines = write_tables(runs, workdir)
  json_files.write_json(os.path.join(workdir, 'summary.json'), {'seed': cfg.seed, 'config': config_lib.to_dict(cfg)})
  return lines


def write_tables(results, workdir):
  """Writes table and plot to W. results: as for `summarise`. Returns the lines of the table."""
  lines, runs = summarise(results), next(iter(results.values()))['runs']
  writer.replace_text(os.path.join(workdir, 'table.md'), markdown(lines, (len(runs), len(runs[0]))))
  writer.replace_text(os.path.join(workdir, 'table.json'), json.dumps(lines, indent=2) + '\n')
  plots.write(search_plots.draw(lines), os.path.join(workdir, 'accuracy_against_tokens.svg'))
  return lines


def combine(folders, workdir):
  """Writes table and plot of several finished searches, runs with different seeds on the same problems, as one to W."""
  names = dict.fromkeys(line['method'] for line in json_files.read_json(os.path.join(folders[0], 'table.json')))
  results = {}
  for name in names:
    found = [writer.read_object(os.path.join(folder, f'{name}.json')) for folder in folders]
    used = [x['occupancy'] for x in found if x['occupancy'] is not None]
    results[name] = {'occupancy': float(np.mean(used)) if used else None, 'runs': [x['problems'] for x in found]}
  return write_tables(results, workdir)


def load_weights(run):
  """The policy's weights as all engines of this run sample with them."""
  engine = policies.make_engine(run.source.cfg, run.tokenizer, run.mesh, run.cfg.model.dtype, run.cfg.rollout)
  return policies.load_weights(run.source, engine)


def identity(run):
  """What all results in a folder depend on."""
  cfg = config_lib.to_dict(run.cfg)
  shared = {name: cfg[name] for name in ('seed', 'data', 'rollout', 'steps', 'step_tokens')}
  shared |= {'split': cfg['split']} if cfg['split'] != 'held_out' else {}  # which older folders lack
  for name in ('prompts', 'chunk', 'slots'):
    del shared['rollout'][name]
  problems = [p['id'] for p in run.problems]
  return shared | {
    'reward': settings_lib.reward_identity(run.cfg.reward),
    'dtype': run.cfg.model.dtype,
    'problems': problems,
    'policy': run.source.digest,
  }


def describe(lines, workdir):
  best = {}
  for line in lines:
    best[line['method']] = line
  shown = ', '.join(f'{name} {line["accuracy"][0]:.1%} with {line["tokens"]:.0f} tokens' for name, line in best.items())
  return f'{shown}\n{workdir}: table.md, accuracy_against_tokens.svg'


if __name__ == '__main__':
  cli.main(run_search, config_lib.Search, 'The folder for results.', describe)
