"""A run of `experiments.rl` by TRL's GRPOTrainer, on the CPU, to compare the learning curves of both.

  scripts/convert export --input RUN --output DIR
  python -m experiments.trl_rl --config configs/r1.py:smollm2/reasoning --config.model.path=DIR --workdir D

It needs the extra `trl`. Each step has the problems, the ids of the prompts, the graders, the weights of the reward and
the learning rate that `experiments.rl` has with the same config. What TRL cannot do is refused; where both differ all
the same is written in docs/trl.md. Settings of evaluations, checkpoints, meshes and memory have no effect.

The folder gets metrics.jsonl with the names of docs/metrics.md, summary.json with the peak memory, and `model`, a
Hugging Face directory that `experiments.evaluate` takes. A run cannot be resumed.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import resource
import shutil
import time
import types
from typing import Any

from absl import flags
import numpy as np

from r1jax import config as config_lib
from r1jax import rollout, tokenizers
from r1jax.batch import EOS, LENGTH
from r1jax.data import order
from r1jax.metrics.timing import Stopwatch
from r1jax.rewards import mix
from r1jax.rollout.metrics import response_metrics, reward_metrics
from r1jax.rollout.prompts import grading_item
from r1jax.runs import cli, json_files, loop
from r1jax.runs.grading import make_graders
from r1jax.runs.policies import open_policy
from r1jax.runs.problems import get_template
from r1jax.runs.rl import load_fitting_problems
from r1jax.training import optimizer as optimizer_lib

MODEL = 'model'  # subfolder of the workdir with the trained model

# Settings of which TRL can do one value only, or this script makes no use of its others.
ONLY = {
  'model.dtype': 'float32',
  'data.drop_solved': 0.0,
  'lora.rank': 0,
  'rollout.stop': (),
  'rollout.weight_dtype': '',
  'rollout.cache_dtype': '',
  'reward.step_credit': 0.0,
  'reward.overlong_buffer': 0,
  'loss.average': '',
  'loss.dual_clip': 0.0,
  'loss.tis_cap': 0.0,
  'loss.mis_high': 0.0,
  'loss.sequence_mask': 0.0,
  'loss.tv_mask': 0.0,
  'loss.entropy_coef': 0.0,
  'loss.resample_limit': 0,
  'loss.drop_zero_variance': False,
  'optimizer.name': 'adam',
  'optimizer.moment_dtype': 'float32',
  'train.minibatches': 1,  # TRL's have single responses instead of whole groups
  'train.epochs': 1,
  'train.balance_rate': 0.0,
  'train.routing_replay': False,
  'distill.coef': 0.0,
  'train.param_dtype': 'float32',
}
ONLY_WITH_KL = {'loss.kl_estimator': 'k3', 'loss.kl_place': 'loss', 'train.reference_dtype': 'float32'}
# loss.name -> TRL's loss_type and importance_sampling_level.
LOSSES = {
  'grpo': ('grpo', 'token'),
  'dr_grpo': ('dr_grpo', 'token'),
  'dapo': ('dapo', 'token'),
  'gspo': ('grpo', 'sequence'),
}
SCALES = {'group': 'group', 'group_centred': 'none'}  # loss.advantage -> TRL's scale_rewards
# What TRL logs -> our name.
LOGGED = {
  'loss': 'policy/loss',
  'grad_norm': 'policy/grad_norm',
  'kl': 'policy/kl',
  'entropy': 'policy/entropy',
  'clip_ratio/low_mean': 'policy/clip_fraction_low',
  'clip_ratio/high_mean': 'policy/clip_fraction_high',
}


def check(cfg):
  """Raises ConfigError for a setting of a config.RL that TRL does not have."""
  for key, value in (ONLY | (ONLY_WITH_KL if cfg.loss.kl_coef else {})).items():
    found = functools.reduce(getattr, key.split('.'), cfg)
    config_lib.require(found == value, f'{key} is {found!r}; with TRL it can only be {value!r}.')
  for key, known in (('name', LOSSES), ('advantage', SCALES)):
    found = getattr(cfg.loss, key)
    config_lib.require(found in known, f'loss.{key} is {found!r}; with TRL it can be one of {", ".join(known)}.')


def grpo_arguments(cfg):
  """The settings of a config.RL as keyword arguments of trl.GRPOConfig."""
  check(cfg)
  responses = cfg.rollout.prompts * cfg.rollout.samples
  microbatch = cfg.train.microbatch or responses
  loss_type, level = LOSSES[cfg.loss.name]
  refresh = cfg.train.reference_refresh if cfg.loss.kl_coef else 0
  return dict(
    seed=cfg.seed,
    max_steps=cfg.steps,
    shuffle_dataset=False,
    num_generations=cfg.rollout.samples,
    per_device_train_batch_size=microbatch,
    gradient_accumulation_steps=responses // microbatch,
    max_completion_length=cfg.rollout.max_response,
    temperature=cfg.rollout.temperature,
    top_p=cfg.rollout.top_p,
    top_k=cfg.rollout.top_k,
    min_p=cfg.rollout.min_p or None,
    loss_type=loss_type,
    importance_sampling_level=level,
    scale_rewards=SCALES[cfg.loss.advantage],
    epsilon=cfg.loss.clip_low,
    epsilon_high=cfg.loss.clip_high,
    beta=cfg.loss.kl_coef,
    use_bias_correction_kl=False,  # TRL's default multiplies k3 by the importance ratio
    sync_ref_model=refresh > 0,
    ref_model_mixup_alpha=1.0,
    ref_model_sync_steps=refresh or cfg.steps + 1,
    max_grad_norm=cfg.optimizer.grad_clip,
    bf16=False,
    gradient_checkpointing=cfg.model.remat == 'full',
  )


def learning_rates(cfg):
  """The learning rate of each step of a config.RL: a list of floats."""
  rate = optimizer_lib.schedule(cfg.optimizer, cfg.steps)
  return np.asarray([rate(step) for step in range(cfg.steps)], np.float64).tolist()


def draw_prompts(cfg, tokenizer):
  """The prompts of all steps, those of one step adjacent.

  Returns:
    list of (problem, text of the prompt for grading, its ids), and {reason: number of dropped problems}.
  """
  template = get_template('data', cfg.data)
  problems, dropped = load_fitting_problems(cfg, tokenizer, template)
  draws = order.Draws(problems.train, cfg.data, cfg.seed, cfg.rollout.prompts)
  drawn = [problem for step in range(cfg.steps) for problem in draws.next(step)]
  return [(problem, *rollout.encode_prompt(tokenizer, template, problem)) for problem in drawn], dropped


class Recorder:
  """Grades the responses of a step as `experiments.rl` does, and writes its line of metrics.

  Args:
    cfg: config.RL. tokenizer: ours.
    prompts: as from `draw_prompts`.
    grader: of the parts of the reward.
    writer, bar: take the metrics of each step.
  """

  def __init__(self, cfg, tokenizer, prompts, grader, writer, bar):
    self._cfg, self._tokenizer, self._prompts = cfg, tokenizer, prompts
    self._grader, self._writer, self._bar = grader, writer, bar
    self.begin()

  def begin(self):
    """To be called when a step begins."""
    self._began, self.clock, self._metrics = time.perf_counter(), Stopwatch(), {}

  def end(self):
    """To be called when a step has ended; what was not sampling or grading counts as the update."""
    seconds = self.clock.seconds
    seconds['update'] = time.perf_counter() - self._began - sum(seconds.values())
    self._metrics |= self.clock.metrics()

  def reward(self, completion_ids, index, trainer_state, **_):
    """A reward function of TRL.

    Args:
      completion_ids: B lists of ids, those of a prompt adjacent. index: B places in the list of prompts.
      trainer_state: has global_step, the number of steps done.

    Returns:
      B floats.
    """
    reward, shape = self._cfg.reward, (-1, self._cfg.rollout.samples)
    items = [self._item(i, ids) for i, ids in zip(index, completion_ids, strict=True)]
    weights = mix.weights(items, reward, trainer_state.global_step)
    with self.clock('reward_wait'):
      graded = self._grader.submit(items, weights).result()
    total = mix.total(graded.parts, reward, weights)
    parts = {name: x.reshape(shape) for name, x in graded.parts.items()}
    batch: Any = types.SimpleNamespace(
      lengths=np.array([len(ids) for ids in completion_ids]).reshape(shape),
      stop=np.array([EOS if ids[-1] in self._tokenizer.eos else LENGTH for ids in completion_ids]).reshape(shape),
    )
    drawn = rollout.Rollout([self._prompts[i][0] for i in index[:: shape[1]]], items, weights, batch)
    scores = rollout.Scores(total.reshape(shape), parts, graded.timeouts)
    self._metrics |= reward_metrics(drawn, scores, reward) | response_metrics(drawn)
    if self.clock.seconds.get('sample'):
      self._metrics['throughput/sample_tokens_per_second'] = batch.lengths.sum() / self.clock.seconds['sample']
    return total.tolist()

  def write(self, step, logs):
    """Writes the metrics of a step. logs: what TRL has logged of it."""
    metrics = self._metrics | {LOGGED[name]: x for name, x in logs.items() if name in LOGGED}
    self._writer.write(step, metrics)
    self._bar.update(metrics)

  def _item(self, index, ids):
    problem, text, _ = self._prompts[index]
    response, control = self._tokenizer.response(ids)
    return grading_item(problem, text, response, control, len(ids))


def as_callback(recorder):
  """A Recorder as a callback of a transformers.Trainer."""
  import transformers

  class Callback(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
      recorder.begin()

    def on_step_end(self, args, state, control, **_):
      recorder.end()

    def on_log(self, args, state, control, logs=None, **_):
      if logs and 'loss' in logs:  # else the summary of the run
        recorder.write(state.global_step - 1, logs)

  return Callback()


def prompt_texts(processor, prompts):
  """The prompts as texts, as TRL takes them. Raises ConfigError if the transformers tokenizer gives them other ids."""
  options = dict(skip_special_tokens=False, clean_up_tokenization_spaces=False)
  texts = [processor.decode(ids, **options) for _, _, ids in prompts]
  for (problem, _, ids), found in zip(prompts, processor(text=texts)['input_ids'], strict=True):
    config_lib.require(
      found == ids,
      f'the prompt of problem {problem["id"]} has {len(ids)} ids here and {len(found)} others in transformers; TRL '
      'takes prompts as texts only, so it cannot be given this one.',
    )
  return texts


def load_model(path, eos, clock):
  """The model of a Hugging Face directory in float32, its sampling timed. clock: function that returns a Stopwatch."""
  import torch
  import transformers

  model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
  model.generation_config.eos_token_id = list(eos)  # TRL takes those that end a response from here
  generate = model.generate

  def timed(*args, **kwargs):
    with clock()('sample'):
      return generate(*args, **kwargs)

  model.generate = timed
  return model


def make_trainer(cfg, workdir, prompts, tokenizer, recorder):
  """The trl.GRPOTrainer of a config.RL. prompts: as from `draw_prompts`. tokenizer: ours."""
  import datasets  # pyright: ignore[reportMissingImports]
  import torch
  import transformers
  import trl  # pyright: ignore[reportMissingImports]

  transformers.utils.logging.disable_progress_bar()
  processor = transformers.AutoTokenizer.from_pretrained(cfg.model.path, padding_side='left', truncation_side='left')
  texts = prompt_texts(processor, prompts)
  model = load_model(cfg.model.path, tokenizer.eos, lambda: recorder.clock)
  o, rates = cfg.optimizer, learning_rates(cfg)
  # The schedules of transformers begin their warm-up at 0, and its optimizer leaves some parameters without decay.
  adam = torch.optim.AdamW(
    model.parameters(), lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.eps, weight_decay=o.weight_decay
  )
  schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rates[min(step, len(rates) - 1)] / o.learning_rate)
  settings = trl.GRPOConfig(
    output_dir=workdir,
    use_cpu=True,
    report_to='none',
    save_strategy='no',
    logging_steps=1,
    logging_nan_inf_filter=False,
    disable_tqdm=True,
    **grpo_arguments(cfg),
  )
  trainer = trl.GRPOTrainer(
    model,
    recorder.reward,
    settings,
    datasets.Dataset.from_list([{'prompt': text, 'index': i} for i, text in enumerate(texts)]),
    processing_class=processor,
    optimizers=(adam, schedule),
    callbacks=[as_callback(recorder)],
  )
  trainer.remove_callback(transformers.PrinterCallback)
  return trainer


def save(model, source, target):
  """Writes a transformers model to the directory `target`, with the tokenizer's files of the directory `source`."""
  model.config.use_cache = True  # switched off for training
  model.save_pretrained(target)
  for file in tokenizers.files(source):
    shutil.copy(file, target)


def open_directory(path):
  """The checkpoint.Source of a Hugging Face directory. Raises ConfigError if `path` is another kind of model."""
  source = open_policy(path)
  config_lib.require(
    source.step is None and pathlib.Path(path).is_dir(),
    f'model.path {path} is no Hugging Face directory, and TRL reads nothing else; make one with '
    f'`scripts/convert export --input {path} --output DIR`.',
  )
  return source


def run_trl(cfg, workdir, threads=0):
  """Trains with TRL to the end. Writes metrics, summary.json, the model, plots and report; returns the summary.

  Args:
    cfg: config.RL. workdir: a new folder. threads: of torch; 0: its own choice.
  """
  check(cfg)
  config_lib.require(importlib.util.find_spec('trl'), "TRL is missing; `pip install -c constraints.txt -e '.[trl]'`.")
  out = pathlib.Path(workdir)
  config_lib.require(
    not any((out / name).exists() for name in (MODEL, 'checkpoints')), f'{workdir} holds a run; use another --workdir.'
  )
  import torch

  if threads:
    torch.set_num_threads(threads)
  began, source = time.perf_counter(), open_directory(cfg.model.path)
  config_lib.check_context(cfg.rollout, source.cfg.context)
  tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
  prompts, dropped = draw_prompts(cfg, tokenizer)
  grader, models = make_graders(cfg.reward)
  config_lib.require(not models, f'reward.parts has {", ".join(models)}; with TRL all parts must be rules.')
  with grader, contextlib.closing(loop.open_writer(workdir)) as writer, loop.progress_bar(cfg.steps, 0) as bar:
    trainer = make_trainer(cfg, workdir, prompts, tokenizer, Recorder(cfg, tokenizer, prompts, grader, writer, bar))
    json_files.write_config(workdir, cfg)
    writer.resume(0)
    trainer.train()
  save(trainer.model, cfg.model.path, out / MODEL)
  summary = {
    'seconds': {'rl': time.perf_counter() - began},
    'peak_memory_gb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,  # of this process
    'threads': torch.get_num_threads(),
    'dropped': dropped,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  loop.finish(workdir, summary)
  return summary


def describe(summary, workdir):
  minutes, peak = summary['seconds']['rl'] / 60, summary['peak_memory_gb']
  return f'{os.path.join(workdir, MODEL)}: {minutes:.1f} minutes, {peak:.1f} GB at most'


if __name__ == '__main__':
  threads = flags.DEFINE_integer('threads', 0, "torch's threads; 0: its own choice.", lower_bound=0)
  cli.main(lambda cfg, workdir: run_trl(cfg, workdir, threads.value), config_lib.RL, 'The folder of the run.', describe)
