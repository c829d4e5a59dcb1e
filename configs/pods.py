"""R1-Zero on slices of TPU pods; variants of configs/r1_zero.py. Not run.

  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b               (what it needs, see docs/pods.md)
"""
from ml_collections import ConfigDict

from configs import common


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


VARIANTS = {
    'qwen2_5_1_5b': lambda: _pod('qwen2_5_1_5b', 'v5e:2x4', dict(fsdp=4, tp=2), 2, 4, dict(fsdp=2, tp=4)),
    'qwen2_5_7b': lambda: _pod('qwen2_5_7b', 'v5e:4x4', dict(fsdp=4, tp=4), 4, 4, response=16_384),
    'qwen2_5_32b': lambda: _pod('qwen2_5_32b', 'v5p:2x2x4', dict(fsdp=4, tp=4), 4, 4),
    'llama3_1_8b': lambda: _pod('llama3_1_8b', 'v5e:4x4', dict(fsdp=4, tp=4), 2, 4, dict(fsdp=2, tp=8), 16_384),
    'llama3_3_70b': lambda: _pod('llama3_3_70b', 'v5p:2x4x4', dict(fsdp=8, tp=4), 4, 8, dict(fsdp=4, tp=8)),
    'deepseek_v3': _deepseek_v3,
    'scale_rl': _scale_rl,
}
