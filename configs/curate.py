"""Rejection sampling: from samples of experiments.generate to the dataset of stage 3.

  python -m experiments.curate --config configs/curate.py:stage3 --config.samples=SAMPLES --workdir D \\
      --config.merge.general.path=rows.jsonl --config.evaluation='("math500.jsonl", "aime24.jsonl")'
  python -m experiments.curate --config configs/curate.py:toy --config.samples=SAMPLES --workdir D
  python -m experiments.curate --config configs/curate.py:planted --config.samples=P \
      --config.merge.general.path=P/general.jsonl --config.evaluation='("P/evaluation.jsonl",)' --workdir D

The paper names what is dropped (mixed languages, long paragraphs, code blocks in the chain; what is wrong) and the
sizes, 600,000 reasoning rows and 200,000 others, but no thresholds: those are ours. Hardware: CPU.
"""
from ml_collections import ConfigDict

from configs import common


def _merged(limit):
  return ConfigDict(dict(path='', limit=limit, kind='general', language=''))


def _stage3():
  """The paper's mixture: about 600,000 reasoning samples, and 200,000 rows of other tasks. Not run at its size."""
  return ConfigDict(dict(
      samples='', per_prompt=4, name='reasoning', version='1.0.0',               # ours
      filters=dict(form='r1', special='|special_token|',                         # ours; paper (special)
                   language=0.95, paragraph=300, code=False,                     # paper; the numbers: ours
                   repetition=0.1, repetition_ngram=20, near=0.8, near_ngram=5),  # ours
      judge=dict(), judged=(),                                                   # paper: some kinds; set url and kinds
      merge=dict(general=_merged(200_000)),                                      # paper: 177,812 to 200,000
      evaluation=(), window=50, overlap=0.5,                                     # ours
      chunk=200, shard=10_000, workers=8))                                       # ours


def _toy():
  """Samples of a toy world, in which chains are lines of a few words. Hardware: 1 CPU core."""
  c = _stage3()
  c.merge = ConfigDict()
  c.update(per_prompt=2, evaluation=('trial', 'chain'), chunk=500, workers=1)
  c.filters.update(form='r1_zero', repetition=0.3)  # a second pass repeats the first's words
  return c


def _planted():
  """The files of `python -m r1jax.recipes.planted --output D`, whose faults are counted. Hardware: 1 CPU core."""
  c = _stage3()
  c.update(per_prompt=2, chunk=500, workers=1)
  c.merge.general.limit = 0
  return c


def get_config(variant='toy'):
  return common.choose({'stage3': _stage3, 'toy': _toy, 'planted': _planted}, variant)
