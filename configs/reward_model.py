"""Reward models: of preferences (pairs), of safety (single responses), of the steps of solutions.

  python -m experiments.reward_model --config configs/reward_model.py:toy_preference --workdir D   (or toy_safety,
      toy_process)
  python -m experiments.reward_model --config configs/reward_model.py:helpful --config.model.path=DIR \\
      --config.data.path=pairs.jsonl --workdir D                                               (or safety, process)

Numbers are marked `paper` (docs/paper.md, v2 of the report) or `ours`. The toys take minutes on 2 CPU cores; all their
numbers are ours; the others want an accelerator and were not run at their size.
"""
from ml_collections import ConfigDict

from configs import common


def _helpful():
  """Helpfulness, judged on the summary: pairs in which one response is preferred. The paper's are 66,000."""
  return ConfigDict(dict(
      seed=0,
      objective='pairs',                                                         # paper
      epochs=1.0, batch=256,                                                     # paper
      microbatch=16, vocab=2048,                                                 # ours
      model=dict(path='', preset='', dtype='bfloat16', remat='full', attention='auto'),  # ours
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05,       # ours
                view='summary',                                                  # paper
                steps='line', form='auto', chat_template='',
                max_length=8192),                                                # paper
      optimizer=dict(name='adam', learning_rate=6e-6,                            # paper
                     schedule='cosine', warmup=10, final_fraction=0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
                     grad_clip=1.0, moment_dtype='float32'),                     # ours (not stated)
      eval=dict(every=50, examples=512),                                         # ours
      checkpoint=dict(every=50, keep=2, keep_every=0),                           # ours
      topology='', mesh=dict(data=1, fsdp=-1, expert=1, tp=1, seq=1),
      param_dtype='float32', grad_dtype='float32', balance_rate=0.0))


def _safety():
  """Harmlessness, judged on the whole response: responses labelled safe or unsafe. The paper's prompts are 106,000."""
  c = _helpful()
  c.objective = 'points'                                                         # paper
  c.data.view = 'whole'                                                          # paper
  return c


def _process():
  """Steps right or wrong. The paper tried such a model and left it; it gives no numbers, so all are ours."""
  c = _helpful()
  c.objective = 'steps'
  c.data.update(view='whole', steps='paragraph', max_length=4096)
  return c


def _toy(objective):
  """Generated examples, random weights of 0.2M parameters. Hardware: 2 CPU cores."""
  c = _helpful()
  c.objective = objective
  c.update(epochs=2.0, batch=64, microbatch=0, vocab=400)
  c.model.update(preset='toy', dtype='float32', remat='none')
  c.data.update(source='toy', eval_fraction=0.0, form='bare', max_length=128)
  c.optimizer.update(name='muon', learning_rate=1e-2, schedule='linear', warmup=20, final_fraction=0.02)
  c.eval.update(every=100, examples=256)
  c.checkpoint.update(every=100)
  return c


def _toy_safety():
  c = _toy('points')
  c.epochs = 1.0
  c.data.view = 'whole'
  return c


def _toy_process():
  c = _toy('steps')
  c.epochs = 5.0
  c.data.update(view='whole', steps='line')
  return c


def _small(objective):
  """Real files on 2 CPU cores: random weights, a tokenizer made from the texts. See docs/reward-models.md."""
  c = _toy(objective)
  c.update(epochs=2.0, batch=32, microbatch=8, vocab=2000)
  c.data.update(source='jsonl', eval_fraction=0.2, form='dialogue', max_length=256)
  c.optimizer.update(name='adam', learning_rate=1e-3, final_fraction=0.1, weight_decay=0.1)
  c.eval.update(every=25, examples=0)
  return c


def _small_process():
  c = _small('steps')
  c.epochs = 3.0
  c.data.update(view='whole', steps='paragraph', max_length=512)
  c.eval.update(every=50, examples=400)
  return c


def get_config(variant='toy_preference'):
  return common.choose({'helpful': _helpful, 'safety': _safety, 'process': _process,
                        'toy_preference': lambda: _toy('pairs'), 'toy_safety': _toy_safety,
                        'toy_process': _toy_process, 'small_preference': lambda: _small('pairs'),
                        'small_process': _small_process}, variant)
