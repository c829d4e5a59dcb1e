"""What reflection is worth to models, such as a base and what RL has made of it: how often it occurs, where, whether
the answer changes after it and for the better, and how accurate the same responses are without it.

  python -m experiments.reflection --config configs/reflection.py:gsm8k --config.data.path=gsm8k_test.jsonl \\
      --config.models.base=DIR --config.models.rl=RUN --workdir W

W/MODEL/tT/ holds the graded samples at temperature T (see `evaluation.reflection`); W/table.md and W/table.json the
figures, and W/*.svg the plots. If the command is stopped, the same command continues with the missing files of samples.
Models and temperatures can be added to a folder later.
"""

import contextlib
import dataclasses
import json
import os

import jax
import tqdm

from r1jax import config as config_lib
from r1jax import keys, parallel, rollout, sampling, templates, tokenizers
from r1jax.data import shards
from r1jax.evaluation import reflection, reflection_tables
from r1jax.metrics import plots, reflection_plots, writer
from r1jax.parallel import interrupt
from r1jax.rewards.workers import pool
from r1jax.runs import cli, cuts, grading, json_files, policies, runtime
from r1jax.runs import settings as settings_lib
from r1jax.runs.problems import get_template, load_problems
from r1jax.runs.workdir import exclusive


@dataclasses.dataclass(frozen=True)
class Model:
  """A model of the study; `source` is its checkpoint.Source."""

  label: str
  source: object
  tokenizer: tokenizers.Tokenizer


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a study needs; built by `make_run`."""

  cfg: config_lib.Reflection
  workdir: str
  models: list
  problems: list
  template: templates.Template
  grader: pool.Grader

  def folder(self, label, temperature):
    return os.path.join(self.workdir, label, f't{temperature:g}')

  @property
  def files(self):
    """Files of samples of one model at one temperature."""
    return -(-len(self.problems) // self.cfg.rollout.prompts)


def make_run(cfg, workdir):
  """Opens the models, and the problems whose prompts all of them can take: those held out, or all if none are.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  runtime.set_up_process()
  config_lib.require(jax.process_count() == 1, 'a study of reflection runs in one process; start only one.')
  models, template = [], get_template('data', cfg.data)
  for label, path in cfg.paths().items():
    source = policies.open_policy(path)
    tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
    forced = len(tokenizer.encode(cfg.closing + cfg.opening)) + cfg.answer_tokens
    limits = dataclasses.replace(cfg.rollout, max_response=cfg.rollout.max_response + forced)
    config_lib.check_context(limits, source.cfg.context, model=label)
    models.append(Model(label, source, tokenizer))
  fits = lambda model, p: len(rollout.encode_prompt(model.tokenizer, template, p)[1]) <= cfg.rollout.max_prompt
  loaded = load_problems(cfg.data, cfg.reward)
  problems = [p for p in loaded.held_out or loaded.train if all(fits(model, p) for model in models)][
    : cfg.problems or None
  ]
  config_lib.require(problems, f'no problem has a prompt within rollout.max_prompt {cfg.rollout.max_prompt}; raise it.')
  grader, scorers = grading.make_graders(cfg.reward)
  judges = {cfg.reward.accuracy, *cfg.reward.accuracy_by_kind.values()} & set(scorers)
  config_lib.require(
    not judges, f'reward.accuracy is {", ".join(judges)}, a model; what is right must be decided by a rule here.'
  )
  return Run(cfg, workdir, models, problems, template, grader)


def sample_model(run, model):
  """Writes the missing files of samples of a model; its parameters are loaded only if there are any."""
  cfg, weights, maker = run.cfg, None, None
  settings_lib.require_same_settings(
    os.path.join(run.workdir, model.label, 'model.json'), {'policy': model.source.digest}
  )
  for temperature in cfg.temperatures:
    out = shards.Shards(run.folder(model.label, temperature), run.files)
    todo = [number for number in range(out.count) if not out.done(number)]
    for number in tqdm.tqdm(todo, desc=f'{model.label}, temperature {temperature:g}', unit='file', leave=False):
      interrupt.raise_if_stopped(f'{out.path(number)} is not written; run the same command again.')
      if maker is None:
        maker = make_cuts(run, model)
        weights = policies.load_weights(model.source, maker.sampler.engine)
      first, count = number * cfg.rollout.prompts, cfg.rollout.prompts
      chosen = dataclasses.replace(cfg.rollout, temperature=temperature or 1.0)
      chosen = sampling.SamplingParams(temperature, chosen.top_p, chosen.top_k, chosen.min_p)
      key = keys.fold_in(jax.random.key(cfg.seed), 0)
      out.write(number, maker.rows(weights, run.problems[first : first + count], first, chosen, key))


def make_cuts(run, model):
  """The runs.cuts.Cuts of a model: samplers of whole responses, of answers and of other continuations."""
  cfg, r, mesh = run.cfg, run.cfg.rollout, parallel.make_mesh(run.cfg.mesh)
  forced = len(model.tokenizer.encode(cfg.closing + cfg.opening))
  engine = lambda rollout: policies.make_engine(model.source.cfg, model.tokenizer, mesh, cfg.model.dtype, rollout)
  # Parts of responses are prompts here; a few at a time are run, in few shapes.
  cut = dataclasses.replace(r, prompts=cuts.TOGETHER, chunk=cuts.TOGETHER, max_prompt=r.max_prompt + r.max_response)
  answering = dataclasses.replace(
    cut, max_prompt=cut.max_prompt + forced, max_response=cfg.answer_tokens, stop=cfg.answer_stop
  )
  sampler = rollout.Sampler(engine(r), model.tokenizer, run.template, run.grader, cfg.reward, r.call)
  return cuts.Cuts(cfg, sampler, engine(answering), engine(cut))


@exclusive
def run_reflection(cfg, workdir):
  """Samples what is missing, and writes tables and plots. Returns {model: {temperature: figures}}.

  Args:
    cfg: config.Reflection. workdir: W.
  """
  run = make_run(cfg, workdir)
  with contextlib.closing(run.grader), runtime.exit_together():
    settings_lib.require_same_settings(os.path.join(workdir, 'reflection.json'), identity(run))
    for model in run.models:
      sample_model(run, model)
  rows_of = lambda label, t: list(shards.read(run.folder(label, t)))
  rows = {model.label: {f'{t:g}': rows_of(model.label, t) for t in cfg.temperatures} for model in run.models}
  figures = write_tables(rows, workdir)
  json_files.write_json(os.path.join(workdir, 'summary.json'), {'seed': cfg.seed, 'config': config_lib.to_dict(cfg)})
  return figures


def write_tables(rows, workdir):
  """Writes tables and plots to W. rows: {model: {temperature: graded samples}}. Returns the figures, likewise."""
  figures = {label: {t: reflection.summarise(of) for t, of in by_t.items()} for label, by_t in rows.items()}
  writer.replace_text(os.path.join(workdir, 'table.json'), json.dumps(figures, indent=2) + '\n')
  writer.replace_text(os.path.join(workdir, 'table.md'), reflection_tables.markdown(figures))
  for name, figure in reflection_plots.figures(figures).items():
    plots.write(figure, os.path.join(workdir, f'{name}.svg'))
  return figures


def combine(folders, workdir):
  """Writes tables and plots of several finished studies, such as those of several seeds, as one to W.

  Problems are resampled with their responses in all studies; how hard a problem is, is a matter of each study.
  """
  rows = {}
  for label, by_t in json_files.read_json(os.path.join(folders[0], 'table.json')).items():
    read = lambda n, t, label=label: shards.read(os.path.join(folders[n], label, f't{t}'))
    number = lambda n, row: row | {'id': f'{n}/{row["id"]}', 'problem': row['id']}
    rows[label] = {t: [number(n, row) for n in range(len(folders)) for row in read(n, t)] for t in by_t}
  return write_tables(rows, workdir)


def identity(run):
  """What all samples in a folder depend on, beside model and temperature."""
  cfg = config_lib.to_dict(run.cfg)
  names = ('seed', 'data', 'rollout', 'opening', 'closing', 'answer_tokens', 'answer_stop', 'tries', 'steps')
  shared = {name: cfg[name] for name in names}
  for name in ('chunk', 'slots', 'temperature'):
    del shared['rollout'][name]
  return shared | {
    'reward': settings_lib.reward_identity(run.cfg.reward),
    'dtype': run.cfg.model.dtype,
    'problems': [p['id'] for p in run.problems],
  }


def describe(figures, workdir):
  return f'{reflection_tables.rates(figures)}\n{workdir}: table.md, table.json and plots'


if __name__ == '__main__':
  cli.main(run_reflection, config_lib.Reflection, 'The folder for samples and results.', describe)
