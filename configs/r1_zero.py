"""R1-Zero: GRPO with rule rewards on a base model, no SFT.

  scripts/quickstart [--world chain]                                              (:toy or :toy_chain, base included)
  python -m experiments.rl --config configs/r1_zero.py:gsm8k --config.data.path=gsm8k_train.jsonl.gz \\
      --config.model.path=DIR --workdir D
  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b               (what a recipe for a pod needs)

Numbers are marked `paper` (docs/paper.md, v2 of the report) or `ours`; what is not set here is in configs/common.py.
Variants that land on figures of other projects are in configs/published.py.
"""
from ml_collections import ConfigDict

from configs import common, published, smollm2


def _gsm8k():
  """A small problem set, one optimizer step per rollout. Hardware: one accelerator or more, by the model. Not run."""
  c = common.rl()
  c.steps = 10_400
  c.rollout.update(prompts=32, max_response=2048, chunk=8)
  c.train.update(minibatches=1, microbatch=64, reference_refresh=400)
  c.eval.update(every=50, samples=4)
  c.checkpoint.update(every=20, keep_every=400)
  return c


def _pod(preset, topology, mesh, chunk, microbatch, sampler=None, response=32_768, learning_rate=2e-6):
  """A recipe for a slice of a TPU pod, which `experiments.plan` says it fits; not run. See docs/pods.md.

  All numbers are ours, but for 32,768 tokens of response and the learning rates: 3e-6 is the paper's for DeepSeek-V3,
  2e-6 for R1-Zero-Qwen-32B.

  Args:
    mesh, sampler: {axis: devices} for training, and for sampling where that differs.
    chunk: prompts sampled at a time. microbatch: responses, each of another prompt.
    response: tokens.
  """
  c = common.rl()
  c.topology = topology
  c.model.preset = preset
  one = dict(data=1, fsdp=1, expert=1, tp=1, seq=1)
  c.mesh = ConfigDict(one | mesh)
  c.sampler_mesh.update(one | sampler if sampler else {})
  c.rollout.update(max_response=response, chunk=chunk)
  c.optimizer.learning_rate = learning_rate
  # Rows of a group lie sorted by length: a microbatch holds the n-th shortest response of each of its prompts.
  c.train.update(microbatch=microbatch, length_slices=16, reference_dtype='bfloat16')
  c.reward.workers = 16
  return c


def _deepseek_v3():
  """The paper's own model; moments in bfloat16, as it was trained (DeepSeek-V3, section 3.3.2)."""
  c = _pod('deepseek_v3', 'v5p:4x8x8', dict(fsdp=32, tp=8), chunk=32, microbatch=32, learning_rate=3e-6)
  c.optimizer.moment_dtype = 'bfloat16'
  return c


PODS = {
    'qwen2_5_1_5b': lambda: _pod('qwen2_5_1_5b', 'v5e:2x4', dict(fsdp=4, tp=2), 2, 4, dict(fsdp=2, tp=4)),
    'qwen2_5_7b': lambda: _pod('qwen2_5_7b', 'v5e:4x4', dict(fsdp=4, tp=4), 4, 4, response=16_384),
    'qwen2_5_32b': lambda: _pod('qwen2_5_32b', 'v5p:2x2x4', dict(fsdp=4, tp=4), 4, 4),
    'llama3_1_8b': lambda: _pod('llama3_1_8b', 'v5e:4x4', dict(fsdp=4, tp=4), 2, 4, dict(fsdp=2, tp=8), 16_384),
    'llama3_3_70b': lambda: _pod('llama3_3_70b', 'v5p:2x4x4', dict(fsdp=8, tp=4), 4, 8, dict(fsdp=4, tp=8)),
    'deepseek_v3': _deepseek_v3,
}


def _scale_rl():
  """ScaleRL's objective on Llama 3.1 8B: "The Art of Scaling RL Compute", arXiv 2510.13786. Not run.

  Its asynchronous rollouts and its forced end of long responses are missing: docs/scaling.md says what else differs.
  Sizes and optimizer are ours.
  """
  c = _pod('llama3_1_8b', 'v5e:4x4', dict(fsdp=4, tp=4), 2, 4, dict(fsdp=2, tp=8), 16_384, learning_rate=5e-7)
  c.loss.update(name='cispo', advantage='batch', average='prompt',               # ScaleRL
                kl_coef=0.0, drop_zero_variance=True)                            # ScaleRL
  c.data.drop_solved = 0.9                                                       # ScaleRL
  c.rollout.update(prompts=48, samples=16)
  c.train.update(minibatches=1, reference_refresh=0)
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


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'toy_chain': _toy_chain, 'smollm2': smollm2.rl, 'gsm8k': _gsm8k,
                        'scale_rl': _scale_rl, **PODS, **published.VARIANTS}, variant)
