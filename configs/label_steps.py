"""Labels for the steps of solutions, by rollouts of a policy (Math-Shepherd, arXiv 2312.08935).

  python -m experiments.label_steps --config configs/label_steps.py:math --config.model.path=DIR \\
      --config.input=solutions.jsonl --workdir W

An input is a JSON Lines file of solutions with `problem`, `steps` and `answer`, or a workdir of experiments.generate.
The paper gives no numbers; all are ours.
"""
from ml_collections import ConfigDict

from configs import common


def _math():
  """Solutions to problems of mathematics in paragraphs. Hardware: one accelerator or more, by the model. Not run."""
  return ConfigDict(dict(
      seed=0, input='', per_problem=4, template='chat_boxed', steps='paragraph', opening='', between='',
      estimate='soft',
      model=dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto'),
      rollout=dict(prompts=64, samples=8, max_prompt=4096, max_response=4096, temperature=1.0, top_p=1.0, top_k=0,
                   min_p=0.0, stop=(), chunk=64, slots=0),
      reward=dict(parts=dict(math=1.0), accuracy='math', workers=8, timeout=10.0)))


def _toy():
  """Samples of the quickstart's world `chain`, a step for each line. Hardware: 2 CPU cores."""
  c = _math()
  c.update(template='plain', steps='line')
  c.model.dtype = 'float32'
  c.rollout.update(prompts=64, samples=8, max_prompt=128, max_response=72, chunk=64)
  c.reward.workers = 1
  return c


def get_config(variant='math'):
  return common.choose({'math': _math, 'toy': _toy}, variant)
