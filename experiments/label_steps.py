"""Labels the steps of solutions by rollouts of a policy, to train a process reward model on.

  python -m experiments.label_steps --model.path=DIR --input=F.jsonl --output=G.jsonl --samples=8

A row of F holds `problem`, `steps` and what the rule reward needs (`answer`). Its row of G also has `labels`, the share
of right completions from each step on, and `rollouts`, [right, sampled]. Rows are written in order, a chunk at a time;
if the command is stopped, the same command continues after the last whole chunk and ends with the same file.
"""

import dataclasses
import json
import logging
import os

from absl import app, flags
import jax
import tqdm

from r1jax import checkpoint, parallel, rollout, sampling, templates
from r1jax import config as config_lib
from r1jax.data import process, reader
from r1jax.rewards.neural import rollouts
from r1jax.rewards.workers import pool
from r1jax.runs import cli, runtime

SETTINGS = 'settings'  # field of G's rows with the settings they were made with

log = logging.getLogger('r1jax')


@dataclasses.dataclass(frozen=True)
class Options:
  """The values of the flags of the same names."""

  template: str = 'plain'
  opening: str = ''
  between: str = ''
  rule: str = 'line'
  reward: str = 'math'
  estimate: str = 'soft'
  samples: int = 8
  max_prompt: int = 1024
  max_response: int = 512
  temperature: float = 1.0
  seed: int = 0
  chunk: int = 16
  workers: int = 2
  timeout: float = 5.0

  def settings(self, digest):
    """The settings that all rows of an output must have in common. digest: of the policy."""
    options = dataclasses.asdict(self)
    return {'policy': digest} | {k: v for k, v in options.items() if k not in ('workers', 'timeout')}


def make_sampler(source, options):
  """Makes a function (prefixes, index of the first) -> for each prefix a list of whole responses.

  A prefix is (row, beginning of its response). The draws depend on the seed and on the prefix's index in the input.
  """
  tokenizer, mesh = source.load_tokenizer(), parallel.make_mesh(config_lib.Mesh())
  template, samples, key = templates.TEMPLATES[options.template], options.samples, jax.random.key(options.seed)
  params = source.load(source.abstract(mesh))
  engine = sampling.Engine(
    source.cfg,
    tokenizer,
    mesh,
    max_prompt=options.max_prompt,
    max_response=options.max_response,
    precision=sampling.Precision(params['embed'].dtype.name),
  )
  weights, shards = engine.prepare_params(params), parallel.batch_shards(mesh)
  batch = -(-options.chunk // shards) * shards

  def sample(prefixes, index):
    beginnings = [tokenizer.encode(text) for _, text in prefixes]
    ids = [
      rollout.encode_prompt(tokenizer, template, row)[1] + beginning
      for (row, _), beginning in zip(prefixes, beginnings)
    ]
    longest = max(map(len, ids))
    config_lib.require(
      longest <= options.max_prompt,
      f'a problem with its steps has {longest} tokens, over --max_prompt {options.max_prompt}; raise it.',
    )
    texts = []
    for first in range(0, len(ids), batch):
      prompts = ids[first : first + batch]
      padded = prompts + prompts[:1] * (batch - len(prompts))
      keys = sampling.row_keys(key, batch, samples, (index + first) * samples)
      out = engine.sample(weights, padded, keys, sampling.SamplingParams(options.temperature))
      texts += [
        [tokenizer.decode([*beginnings[first + i], *tokens[:n]]) for tokens, n in zip(out.tokens[i], out.lengths[i])]
        for i in range(len(prompts))
      ]
    return texts

  return sample


def count_done(path, settings, chunk):
  """The number of rows of the output in whole chunks; truncates the file after them.

  Raises:
    ConfigError: the rows were made with other settings.
  """
  if not os.path.exists(path):
    return 0
  with open(path, 'rb') as f:
    lines = f.read().split(b'\n')[:-1]  # a torn last line does not count
  count = len(lines) // chunk * chunk
  old_settings = json.loads(lines[0])[SETTINGS] if lines else settings
  config_lib.require(
    old_settings == settings,
    f'{path} was made with the settings {old_settings}, not {settings}; restore those, or choose another --output.',
  )
  with open(path, 'r+b') as f:
    f.truncate(sum(len(line) + 1 for line in lines[:count]))
  return count


def check_row(row):
  process.check(row, labelled=False)
  if not isinstance(row.get('answer'), (str, int, float)):
    raise ValueError("no field 'answer'")


def label_file(path, source, target, options):
  """Labels the rows of the file `source` with the policy at `path` and writes them to `target`. Returns their count."""
  runtime.set_up_process()
  model = checkpoint.open_model(path)
  config_lib.require(jax.process_count() == 1, 'several processes would write the same file; start only one.')
  config_lib.require(model.cfg.head == 'tokens', f'{path} is a reward model; rollouts need a policy.')
  config_lib.require(
    options.template in templates.TEMPLATES,
    f'--template is {options.template!r}; known: {", ".join(templates.TEMPLATES)}.',
  )
  config_lib.require(
    options.max_prompt + options.max_response <= model.cfg.context,
    f"--max_prompt {options.max_prompt} + --max_response {options.max_response} exceed the model's "
    f'context of {model.cfg.context}.',
  )
  rows, settings = reader.read_rows(source, check_row), options.settings(model.digest)
  os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
  done = count_done(target, settings, options.chunk)
  sample, prefixes_done = make_sampler(model, options), sum(len(row['steps']) for row in rows[:done])
  with (
    pool.Grader({options.reward: {}}, options.workers, options.timeout) as grader,
    open(target, 'a', encoding='utf-8') as f,
    tqdm.tqdm(total=len(rows), initial=done, unit='row') as bar,
  ):
    timeouts = 0

    def grade(items):
      nonlocal timeouts
      scores = grader.submit(items).result()
      timeouts += scores.timeouts
      return scores.parts[options.reward].tolist()

    for first in range(done, len(rows), options.chunk):
      chunk = rows[first : first + options.chunk]
      labelled = rollouts.label(
        chunk,
        sample=lambda prefixes, index=prefixes_done: sample(prefixes, index),
        grade=grade,
        rule=options.rule,
        estimate=options.estimate,
        opening=options.opening,
        between=options.between,
      )
      f.writelines(json.dumps(row | {SETTINGS: settings}, ensure_ascii=False) + '\n' for row in labelled)
      f.flush()
      prefixes_done += sum(len(row['steps']) for row in chunk)
      bar.update(len(chunk))
  if timeouts:
    log.warning(
      '%d completions were not graded within %g s and count as wrong; see --timeout.', timeouts, options.timeout
    )
  return len(rows)


def main(_):
  values = flags.FLAGS.flag_values_dict()
  options = Options(**{field.name: values[field.name] for field in dataclasses.fields(Options)})
  with cli.errors_in_one_line():
    count = label_file(_PATH.value, _INPUT.value, _OUTPUT.value, options)
  print(f'{_OUTPUT.value}: {count} rows')


if __name__ == '__main__':
  _PATH = flags.DEFINE_string('model.path', None, 'The policy: as for experiments.score.', required=True)
  _INPUT = flags.DEFINE_string('input', None, 'JSON Lines with `problem`, `steps`, `answer`.', required=True)
  _OUTPUT = flags.DEFINE_string('output', None, 'The same with `labels`.', required=True)
  flags.DEFINE_string('template', 'plain', 'Prompt template: a key of r1jax.templates.TEMPLATES.')
  flags.DEFINE_string('opening', '', 'Text of the response before its first step, such as "<think> ".')
  flags.DEFINE_string('between', '', 'Text of the response after each step; default as of --rule.')
  flags.DEFINE_enum('rule', 'line', list(config_lib.STEP_RULES), 'What separates steps.')
  flags.DEFINE_string('reward', 'math', 'Reward that grades completions: a key of r1jax.rewards.REWARDS.')
  flags.DEFINE_enum(
    'estimate', 'soft', list(rollouts.ESTIMATES), 'Share of right completions, or whether any is right.'
  )
  flags.DEFINE_integer('samples', 8, 'Completions from each step.', lower_bound=1)
  flags.DEFINE_integer('max_prompt', 1024, 'Most tokens of problem and steps.', lower_bound=1)
  flags.DEFINE_integer('max_response', 512, 'Most tokens of a completion.', lower_bound=1)
  flags.DEFINE_float('temperature', 1.0, 'Sampling temperature.', lower_bound=1e-6)
  flags.DEFINE_integer('seed', 0, 'Sampling seed.', lower_bound=0)
  flags.DEFINE_integer('chunk', 16, 'Rows written at a time, and prefixes sampled at a time.', lower_bound=1)
  flags.DEFINE_integer('workers', 2, 'Processes that grade.', lower_bound=1)
  flags.DEFINE_float('timeout', 5.0, 'Seconds for grading a completion.', lower_bound=0.01)
  app.run(main)
