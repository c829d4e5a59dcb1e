"""R1-Zero: GRPO with rule rewards on a base model, no SFT.

  scripts/quickstart [--world chain]                                              (:toy or :toy_chain, base included)
  python -m experiments.rl --config configs/r1_zero.py:gsm8k --config.data.path=gsm8k_train.jsonl.gz \\
      --config.model.path=DIR --workdir D

Numbers are marked `paper` (PAPER.md, v2 of the report) or `ours`.
"""
from ml_collections import ConfigDict

from configs import common


def _paper():
  """The paper's hyper-parameters, for GSM8K. Hardware: one accelerator or more, by the model. Result: not run."""
  return ConfigDict(dict(
      seed=0,
      steps=10_400,                                                              # paper
      model=dict(path='', dtype='bfloat16', remat='full', attention='auto'),     # ours
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='r1_zero',
                chat_template='', language='en'),
      rollout=dict(prompts=32, samples=16, temperature=1.0,                      # paper (batch 512)
                   max_prompt=1024, max_response=2048,                           # ours (paper: 32,768)
                   top_p=1.0, top_k=0, min_p=0.0, stop=(), chunk=8),             # ours
      reward=dict(parts=dict(math=1.0, format=1.0), accuracy='math',             # paper (equal weight)
                  workers=2, timeout=5.0, overlong_buffer=0),                    # ours
      loss=dict(name='grpo', advantage='group', clip_low=0.2, clip_high=0.2,     # ours (not stated for R1-Zero)
                kl_coef=1e-3, kl_estimator='k3', kl_place='loss',                # paper
                dual_clip=0.0, tis_cap=0.0, entropy_coef=0.0, resample_limit=0),
      optimizer=dict(name='adam', learning_rate=3e-6,                            # paper
                     schedule='constant', warmup=10, final_fraction=1.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
                     grad_clip=1.0),                                             # ours
      train=dict(minibatches=1, microbatch=16, length_slices=1, epochs=1, logit_chunk=1024,  # ours
                 balance_rate=0.0,                                               # ours
                 reference_refresh=400),                                         # paper
      eval=dict(every=50, problems=128, samples=4, final_problems=256, final_samples=16, temperature=1.0, top_p=1.0),
      checkpoint=dict(every=20, keep=2, keep_every=400),                         # ours
      mesh=dict(data=1, fsdp=-1, tp=1)))


def _toy():
  """Trial and error, from a base of `configs/toy_base.py:trial`. Hardware: 2 CPU cores. All numbers ours."""
  c = _paper()
  c.steps = 160
  c.model.update(dtype='float32', remat='none')
  c.data.update(source='trial', template='plain', eval_fraction=0.0)
  c.rollout.update(prompts=16, samples=16, max_prompt=32, max_response=160, chunk=16)
  c.reward.parts = ConfigDict(dict(signs=1.0, format=0.5))
  c.reward.update(accuracy='signs', workers=1)
  c.optimizer.update(learning_rate=3e-4, schedule='linear', warmup=5, final_fraction=0.1)
  c.train.update(microbatch=0, length_slices=4, reference_refresh=0, logit_chunk=4096)
  c.eval.update(every=20, problems=64, samples=16, final_problems=256, final_samples=16)
  c.checkpoint.update(every=10, keep_every=0)
  return c


def _toy_chain():
  """Chained arithmetic, from a base of `configs/toy_base.py:chain`. Hardware: 2 CPU cores. All numbers ours."""
  c = _toy()
  c.steps = 200
  c.data.source = 'chain'
  c.rollout.max_response = 72
  c.reward.parts = ConfigDict(dict(math=1.0, format=0.5))
  c.reward.accuracy = 'math'
  c.optimizer.learning_rate = 5e-4
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'toy_chain': _toy_chain, 'gsm8k': _paper}, variant)
