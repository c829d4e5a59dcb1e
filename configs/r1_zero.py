"""R1-Zero: GRPO with rule rewards on a base model, no SFT.

  scripts/quickstart [--world chain]                                              (:toy or :toy_chain, base included)
  python -m experiments.rl --config configs/r1_zero.py:gsm8k --config.data.path=gsm8k_train.jsonl.gz \\
      --config.model.path=DIR --workdir D
  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b               (what a recipe for a pod needs)

Numbers are marked `paper` (docs/paper.md, v2 of the report) or `ours`; what is not set here is in configs/common.py.
Variants for pods are in configs/pods.py, those that land on figures of other projects in configs/published.py.
"""
from ml_collections import ConfigDict

from configs import common, pods, published, smollm2


def _gsm8k():
  """A small problem set, one optimizer step per rollout. Hardware: one accelerator or more, by the model. Not run."""
  c = common.rl()
  c.steps = 10_400
  c.rollout.update(prompts=32, max_response=2048, chunk=8)
  c.train.update(minibatches=1, microbatch=64, reference_refresh=400)
  c.eval.update(every=50, samples=4)
  c.checkpoint.update(every=20, keep_every=400)
  return c


def _toy():
  """Trial and error, from a base of `configs/toy_base.py:trial`. Hardware: 2 CPU cores. All numbers ours."""
  c = _gsm8k()
  c.steps = 160
  c.model.update(dtype='float32', remat='none')
  c.data.update(source='trial', template='plain', eval_fraction=0.0)
  c.rollout.update(prompts=16, samples=16, max_prompt=32, max_response=160, chunk=16)
  c.reward.parts = ConfigDict(dict(signs=1.0, format=0.5))
  c.reward.update(accuracy='signs', workers=1)
  c.optimizer.update(learning_rate=4e-4, schedule='linear', warmup=5, final_fraction=0.0)
  c.train.update(microbatch=0, length_slices=4, reference_refresh=0, logit_chunk=4096)
  c.eval.update(every=32, problems=64, samples=16, final_problems=256, final_samples=16)
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
  c.optimizer.update(learning_rate=5e-4, final_fraction=0.1)
  return c


def _toy_nested():
  """Sums of earlier results, from a base of `configs/toy_base.py:nested`. Hardware: 2 CPU cores. All numbers ours."""
  c = _toy_chain()
  c.data.source = 'nested'
  c.rollout.update(max_prompt=32, max_response=128)
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'toy_chain': _toy_chain, 'toy_nested': _toy_nested, 'smollm2': smollm2.rl,
                        'gsm8k': _gsm8k, **pods.VARIANTS, **published.VARIANTS}, variant)
