"""Labels the steps of solutions by rollouts of a policy, to train a process reward model on.

  python -m experiments.label_steps --config configs/label_steps.py:math --config.model.path=DIR \\
      --config.input=F.jsonl --workdir W

A row of F holds `problem`, `steps` and what the rule reward needs (`answer`). Instead of F, a workdir of
experiments.generate is taken: the steps are then those of the sampled responses. A row of W/labels.jsonl also has
`labels`, the share of right completions from each step on, and `rollouts`, [right, sampled]. Rows are written in order,
rollout.prompts at a time; if the command is stopped, the same command continues after the last of these and ends with
the same file.
"""

import collections
import json
import logging
import os

import jax
import tqdm

from r1jax import config as config_lib
from r1jax import models, parallel, rollout, sampling, templates
from r1jax.data import process, reader
from r1jax.parallel import interrupt
from r1jax.recipes import dataset
from r1jax.rewards import mix
from r1jax.rewards.neural import rollouts
from r1jax.runs import cli, grading, json_files, policies, runtime
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import exclusive
from r1jax.training import state as state_lib

LABELS = 'labels.jsonl'

log = logging.getLogger('r1jax')


def read_solutions(cfg):
  """The rows of a config.LabelSteps' input, each with `steps`; of samples the first `per_problem` different responses.

  Raises:
    DataError: a bad row, or files of samples are missing. ConfigError: there is nothing to label.
  """
  config_lib.require(cfg.input, 'input is empty; pass a file of solutions with --config.input=F.jsonl.')
  if not os.path.isdir(cfg.input):
    return reader.read_rows(cfg.input, check_row)
  rows, seen = [], collections.defaultdict(set)
  for row in dataset.rows(cfg.input):
    steps = [row['response'][start:end] for start, end in process.spans(row['response'], cfg.steps)]
    responses = seen[row['problem']]
    if steps and row['response'] not in responses and not 0 < cfg.per_problem <= len(responses):
      responses.add(row['response'])
      rows.append(row | {'steps': steps})
  config_lib.require(rows, f'no response of the samples in {cfg.input} has a step to label.')
  return rows


def check_row(row):
  process.check(row, labelled=False)
  if not isinstance(row.get('answer'), (str, int, float)):
    raise ValueError("no field 'answer'")


def make_sampler(cfg, source):
  """Makes a function (prefixes, index of the first) -> for each prefix a list of whole responses.

  A prefix is (row, beginning of its response). The draws depend on the seed and on the prefix's index in the input.
  """
  tokenizer, mesh, r = source.load_tokenizer(), parallel.make_mesh(config_lib.Mesh()), cfg.rollout
  template, key = templates.TEMPLATES[cfg.template], jax.random.key(cfg.seed)
  engine = policies.make_engine(source.cfg, tokenizer, mesh, cfg.model.dtype, r)
  abstract = state_lib.abstract_state(models.specs(source.cfg), None, mesh, engine.precision.loaded).params
  weights, shards = engine.prepare_params(source.load(abstract)), parallel.batch_shards(mesh)
  batch = -(-(r.chunk or r.prompts) // shards) * shards
  settings = sampling.SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p)

  def sample(prefixes, index):
    beginnings = [tokenizer.encode(text) for _, text in prefixes]
    ids = [
      rollout.encode_prompt(tokenizer, template, row)[1] + beginning
      for (row, _), beginning in zip(prefixes, beginnings)
    ]
    longest = max(map(len, ids))
    config_lib.require(
      longest <= r.max_prompt,
      f'a problem with its steps has {longest} tokens, over rollout.max_prompt {r.max_prompt}; raise it.',
    )
    texts = []
    for first in range(0, len(ids), batch):
      prompts = ids[first : first + batch]
      padded = prompts + prompts[:1] * (batch - len(prompts))
      keys = sampling.row_keys(key, batch, r.samples, (index + first) * r.samples)
      out = engine.sample(weights, padded, keys, settings)
      texts += [
        [tokenizer.decode([*beginnings[first + i], *tokens[:n]]) for tokens, n in zip(out.tokens[i], out.lengths[i])]
        for i in range(len(prompts))
      ]
    return texts

  return sample


def make_judge(reward, grader):
  """A function from items to whether each is right, by the accuracy part of a config.Reward."""

  def right(items):
    scores = grader.submit(items, mix.weights(items, reward)).result()
    if scores.timeouts:
      log.warning('%d completions took longer than reward.timeout and count as wrong.', scores.timeouts)
    return mix.right(scores.parts, reward, items).tolist()

  return right


def count_done(path, chunk):
  """The number of rows of the output in whole chunks; truncates the file after them."""
  if not os.path.exists(path):
    return 0
  with open(path, 'rb') as f:
    lines = f.read().split(b'\n')[:-1]  # a torn last line does not count
  count = len(lines) // chunk * chunk
  with open(path, 'r+b') as f:
    f.truncate(sum(len(line) + 1 for line in lines[:count]))
  return count


def identity(cfg, source):
  """The settings that all rows of an output must have in common."""
  full = config_lib.to_dict(cfg)
  ways = {key: full[key] for key in ('seed', 'template', 'per_problem', 'steps', 'opening', 'between', 'estimate')}
  # Of `rollout` everything: how many steps are continued at a time decides about the draws.
  return ways | {
    'rollout': full['rollout'],
    'reward': settings_lib.reward_identity(cfg.reward),
    'policy': source.digest,
  }


@exclusive
def run_label_steps(cfg, workdir):
  """Labels all solutions. Returns the summary, which it also writes to summary.json."""
  runtime.set_up_process()
  source = policies.open_policy(cfg.model.path)
  config_lib.require(jax.process_count() == 1, 'several processes would write the same file; start only one.')
  config_lib.require(
    cfg.template in templates.TEMPLATES, f'template is {cfg.template!r}; known: {", ".join(templates.TEMPLATES)}.'
  )
  config_lib.check_context(cfg.rollout, source.cfg.context)
  rows, path, size = read_solutions(cfg), os.path.join(workdir, LABELS), cfg.rollout.prompts
  settings_lib.require_same_settings(os.path.join(workdir, 'label_steps.json'), identity(cfg, source))
  done = count_done(path, size)
  grader, learned = grading.make_graders(cfg.reward)
  config_lib.require(
    not learned, f'rules grade rollouts, but {", ".join(learned)} of reward.parts is a model; drop it.'
  )
  sample, prefixes_done = make_sampler(cfg, source), sum(len(row['steps']) for row in rows[:done])
  with grader, open(path, 'a', encoding='utf-8') as f, tqdm.tqdm(total=len(rows), initial=done, unit='row') as bar:
    for first in range(done, len(rows), size):
      interrupt.raise_if_stopped(
        f'{first} of {len(rows)} rows are labelled; run the same command again for the others.'
      )
      chunk = rows[first : first + size]
      labelled = rollouts.label(
        chunk,
        sample=lambda prefixes, index=prefixes_done: sample(prefixes, index),
        right=make_judge(cfg.reward, grader),
        rule=cfg.steps,
        estimate=cfg.estimate,
        opening=cfg.opening,
        between=cfg.between,
      )
      f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in labelled)
      f.flush()
      prefixes_done += sum(len(row['steps']) for row in chunk)
      bar.update(len(chunk))
  with open(path, encoding='utf-8') as f:
    labels = [label for line in f for label in json.loads(line)['labels']]
  summary = {
    'figures': {'solutions': len(rows), 'steps': len(labels), 'label_mean': sum(labels) / len(labels)},
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def describe(summary, workdir):
  f = summary['figures']
  return (
    f'{os.path.join(workdir, LABELS)}: {f["steps"]} steps of {f["solutions"]} solutions, mean {f["label_mean"]:.2f}'
  )


if __name__ == '__main__':
  cli.main(run_label_steps, config_lib.LabelSteps, 'The folder for labels.jsonl.', describe)
