"""Labels the steps of solutions by roll-outs of a policy, for a process reward model to learn from.

  python -m experiments.label_steps --model.path=DIR --input=F.jsonl --output=G.jsonl --samples=8

A row of F holds `problem`, `steps` and what the rule reward needs (`answer`); its row of G has `labels` besides, the
share of right completions from each step on, and `rollouts`, [right, sampled]. Rows come out in order, a few at a time;
a command that was ended goes on after the last of them that are whole, and ends with the same file.
"""

import dataclasses
import json
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

SETTINGS = 'settings'  # the field of G's rows that says how they were made


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the same names."""

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
    """What two parts of one output must have in common; digest: of the policy."""
    own = dataclasses.asdict(self)
    return {'policy': digest} | {name: own[name] for name in own if name not in ('workers', 'timeout')}


def sampler(source, options):
  """A function from [(row, beginning of its response)] and the number of the first, to lists of whole responses.

  Draws depend on the seed and the number of the beginning in the whole input.
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
    dtype=params['embed'].dtype,
  )
  weights, shards = engine.weights(params), parallel.batch_shards(mesh)
  batch = -(-options.chunk // shards) * shards

  def sample(asked, number):
    begun = [tokenizer.encode(text) for _, text in asked]
    ids = [rollout.encode_prompt(tokenizer, template, row)[1] + some for (row, _), some in zip(asked, begun)]
    longest = max(map(len, ids))
    config_lib.require(
      longest <= options.max_prompt,
      f'a problem with its steps has {longest} tokens, over --max_prompt {options.max_prompt}; raise it.',
    )
    texts = []
    for first in range(0, len(ids), batch):
      some = ids[first : first + batch]
      filled = some + some[:1] * (batch - len(some))
      keys = sampling.row_keys(key, batch, samples, (number + first) * samples)
      out = engine.sample(weights, filled, keys, sampling.Sampling(options.temperature))
      texts += [
        [tokenizer.decode([*begun[first + i], *row[:n]]) for row, n in zip(out.tokens[i], out.lengths[i])]
        for i in range(len(some))
      ]
    return texts

  return sample


def done_rows(path, settings, chunk):
  """How many rows of the output stand, in whole chunks; what is behind them is cut off.

  Raises:
    ConfigError: they were made with other settings.
  """
  if not os.path.exists(path):
    return 0
  with open(path, 'rb') as f:
    lines = f.read().split(b'\n')[:-1]  # a torn last line does not count
  count = len(lines) // chunk * chunk
  made = json.loads(lines[0])[SETTINGS] if lines else settings
  config_lib.require(
    made == settings, f'{path} was made with {made}, not {settings}; go back to those, or choose another --output.'
  )
  with open(path, 'r+b') as f:
    f.truncate(sum(len(line) + 1 for line in lines[:count]))
  return count


def check_row(row):
  process.check(row, labelled=False)
  if not isinstance(row.get('answer'), (str, int, float)):
    raise ValueError("no field 'answer'")


def label_file(path, source, target, options):
  """Labels a file; returns the number of rows."""
  runtime.set_up_process()
  model = checkpoint.open_model(path)
  config_lib.require(jax.process_count() == 1, 'several processes would write the same file; start one.')
  config_lib.require(model.cfg.head == 'tokens', f'{path} is a reward model; roll-outs need a policy.')
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
  done = done_rows(target, settings, options.chunk)
  sample, number = sampler(model, options), sum(len(row['steps']) for row in rows[:done])
  with (
    pool.Grader({options.reward: {}}, options.workers, options.timeout) as grader,
    open(target, 'a', encoding='utf-8') as f,
    tqdm.tqdm(total=len(rows), initial=done, unit='row') as bar,
  ):
    grade = lambda items: grader.submit(items).result().parts[options.reward].tolist()
    for first in range(done, len(rows), options.chunk):
      some = rows[first : first + options.chunk]
      labelled = rollouts.label(
        some,
        sample=lambda asked, number=number: sample(asked, number),
        grade=grade,
        rule=options.rule,
        estimate=options.estimate,
        opening=options.opening,
        between=options.between,
      )
      f.writelines(json.dumps(row | {SETTINGS: settings}, ensure_ascii=False) + '\n' for row in labelled)
      f.flush()
      number += sum(len(row['steps']) for row in some)
      bar.update(len(some))
  return len(rows)


def main(_):
  options = Options(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Options)})
  with cli.errors_in_one_line():
    count = label_file(_PATH.value, _INPUT.value, _OUTPUT.value, options)
  print(f'{_OUTPUT.value}: {count} rows')


if __name__ == '__main__':
  _PATH = flags.DEFINE_string('model.path', None, 'The policy: as for experiments.score.', required=True)
  _INPUT = flags.DEFINE_string('input', None, 'JSON Lines with `problem`, `steps`, `answer`.', required=True)
  _OUTPUT = flags.DEFINE_string('output', None, 'The same with `labels`.', required=True)
  flags.DEFINE_string('template', 'plain', 'Of the prompt: a key of r1jax.templates.TEMPLATES.')
  flags.DEFINE_string('opening', '', 'Text of the response before its first step, such as "<think> ".')
  flags.DEFINE_string('between', '', 'Text of the response after each step, where it is not what --rule says.')
  flags.DEFINE_enum('rule', 'line', list(config_lib.STEP_RULES), 'What ends a step.')
  flags.DEFINE_string('reward', 'math', 'By which a completed solution is right: a key of r1jax.rewards.REWARDS.')
  flags.DEFINE_enum('estimate', 'soft', list(rollouts.ESTIMATES), 'Share of right completions, or whether any is.')
  flags.DEFINE_integer('samples', 8, 'Completions from each step.', lower_bound=1)
  flags.DEFINE_integer('max_prompt', 1024, 'Tokens of problem and steps, at most.', lower_bound=1)
  flags.DEFINE_integer('max_response', 512, 'Tokens of a completion, at most.', lower_bound=1)
  flags.DEFINE_float('temperature', 1.0, 'Of the samples.', lower_bound=1e-6)
  flags.DEFINE_integer('seed', 0, 'Of the samples.', lower_bound=0)
  flags.DEFINE_integer('chunk', 16, 'Rows written at a time, and beginnings sampled at a time.', lower_bound=1)
  flags.DEFINE_integer('workers', 2, 'Processes that grade.', lower_bound=1)
  flags.DEFINE_float('timeout', 5.0, 'Seconds for grading one completion.', lower_bound=0.01)
  app.run(main)
