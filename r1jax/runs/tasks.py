"""Loads the problems of an evaluation's tasks, with solved examples before them."""

import dataclasses
import hashlib
import itertools
import json
import os

from r1jax import config as config_lib
from r1jax import data, rollout, templates
from r1jax.data import mixture, reader, sources
from r1jax.runs.problems import get_template, load_problems


@dataclasses.dataclass(frozen=True)
class Problems:
  """The problems of a task, in the order in which they are asked."""

  name: str
  task: config_lib.Task
  template: templates.Template
  problems: list

  def identity(self):
    """SHA-256 in hex of all that is asked and graded."""
    return hashlib.sha256(json.dumps(self.problems, sort_keys=True).encode()).hexdigest()

  def check_prompts(self, tokenizer, max_prompt):
    """Raises ConfigError if a prompt has more than max_prompt tokens: leaving problems out would change the result."""
    lengths = [len(rollout.encode_prompt(tokenizer, self.template, p)[1]) for p in self.problems]
    long = sum(n > max_prompt for n in lengths)
    config_lib.require(
      not long,
      f'tasks.{self.name}: {long} of {len(lengths)} prompts exceed rollout.max_prompt {max_prompt}; '
      f'set it to {max(lengths)} or more.',
    )


def load(cfg, name):
  """The Problems of the task `name` of a config.Evaluate.

  All problems of a file count, and the held-out ones of a source that generates its own. Their order is by a hash of
  each, and so is which of them `problems` keeps.

  Raises:
    ConfigError, DataError: a setting or a file cannot be used; the message names the task.
  """
  task = cfg.tasks[name]
  inside = lambda path: path and os.path.join(cfg.folder, path)
  rows = {f.name: getattr(task, f.name) for f in dataclasses.fields(config_lib.Rows)}
  part = config_lib.Part(**rows | {'path': inside(task.path), 'template': ''}, eval_fraction=0.0)
  try:
    loaded = load_problems(config_lib.Data('mixture', parts={name: part}), task.reward())
    examples = load_examples(task, inside(task.few_shot.path), loaded) if task.few_shot.count else []
    template = get_template(f'tasks.{name}', task)
    problems = sorted(loaded.held_out or loaded.train, key=_hash)[: task.problems or None]
    problems = [with_examples(p, examples, task, template) for p in problems]
  except (config_lib.ConfigError, data.DataError) as error:
    text = str(error).replace('data.parts.', 'tasks.')
    raise type(error)(text if f'tasks.{name}' in text else f'tasks.{name}: {text}') from error
  repeated = len(problems) - len({p['id'] for p in problems})
  config_lib.require(
    not repeated, f"tasks.{name}: {repeated} problems have the 'id' of another one; number them apart in the file."
  )
  return Problems(name, task, template, problems)


def _hash(problem):
  return sources.share(f'{problem["id"]}\0{reader.text_key(problem)}', 'evaluation')


def load_examples(task, path, loaded):
  """The rows of a file of examples, or training problems of `loaded`, as problems with a 'response'.

  Raises ConfigError, DataError.
  """
  if not path:
    config_lib.require(
      loaded.held_out, 'few_shot.path is empty, and its problems are not generated; name a file of examples.'
    )
    return [p | {'response': mixture.fill(task.few_shot.response, p)} for p in loaded.train]
  convert = mixture.row_converter(task, {})

  def example(row, default_id):
    problem = convert(row, default_id)
    assert problem is not None  # only a filter leaves rows out
    return problem | {'response': mixture.fill(task.few_shot.response, problem)}

  return reader.read_jsonl(path, example)[0]


def with_examples(problem, examples, task, template):
  """The problem with few_shot.count examples before it, each in the task's template and with its response.

  With a chat template they are turns of the conversation; else they stand before the problem, with empty lines between.

  Raises ConfigError if there are too few.
  """
  shots, text, value = task.few_shot, reader.text_key(problem), problem.get(task.split)
  if not shots.count:
    return problem
  fits = lambda e: (task.split not in e or e[task.split] == value) and reader.text_key(e) != text
  chosen = list(itertools.islice(filter(fits, examples), shots.count))
  config_lib.require(
    len(chosen) == shots.count,
    f'few_shot.path {shots.path!r} has {len(chosen)} examples for problem {problem["id"]!r}'
    f'{f" with {task.split} {value!r}" if task.split else ""}, but few_shot.count is {shots.count}; lower it.',
  )
  user = lambda content: {'role': 'user', 'content': content}
  turns = problem.get('turns') or [user(problem['problem'])]
  if template.chat:
    reply = lambda e: [user(template.format(e)), {'role': 'assistant', 'content': e['response']}]
    return problem | {'turns': [turn for e in chosen for turn in reply(e)] + turns}
  before, after = template.text.split('{problem}')
  asked = [f'{e["problem"]}{after}{e["response"]}\n\n{before}' for e in chosen]
  return problem | {'turns': [*turns[:-1], user(''.join(asked) + turns[-1]['content'])]}
