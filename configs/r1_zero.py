"""R1-Zero: GRPO with rule rewards on a base model, no SFT.

  scripts/quickstart [--world chain]                                              (:toy or :toy_chain, base included)
  python -m experiments.rl --config configs/r1_zero.py:gsm8k --config.data.path=gsm8k_train.jsonl.gz \\
      --config.model.path=DIR --workdir D
  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b               (what a recipe for a pod needs)

Numbers are marked `paper` (PAPER.md, v2 of the report) or `ours`.
"""
from ml_collections import ConfigDict

from configs import common


def _paper():
  """The paper's hyper-parameters. A step is one rollout of 8,192 responses and 16 optimizer steps."""
  return ConfigDict(dict(
      seed=0,
      steps=650,                                                                 # paper (10,400 optimizer steps)
      topology='',
      model=dict(path='', preset='', dtype='bfloat16', remat='full', attention='auto'),  # ours
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='r1_zero',
                chat_template='', language='en', evaluation=()),
      rollout=dict(prompts=512, samples=16, temperature=1.0,                     # paper
                   max_prompt=1024, max_response=32_768,                         # paper (the response, to step 8,200)
                   top_p=1.0, top_k=0, min_p=0.0, stop=(), chunk=0),             # ours
      reward=dict(parts=dict(math=1.0, format=1.0), accuracy='math',             # paper (equal weight)
                  workers=2, timeout=5.0, overlong_buffer=0, options=dict(), gates=(), step_credit=0.0),  # ours
      loss=dict(name='grpo', advantage='group', clip_low=0.2, clip_high=0.2,     # ours (not stated for R1-Zero)
                kl_coef=1e-3, kl_estimator='k3', kl_place='loss',                # paper
                dual_clip=0.0, tis_cap=0.0, entropy_coef=0.0, resample_limit=0),
      optimizer=dict(name='adam', learning_rate=3e-6,                            # paper
                     schedule='constant', warmup=10, final_fraction=1.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
                     grad_clip=1.0, moment_dtype='float32'),                     # ours
      train=dict(minibatches=16,                                                 # paper
                 microbatch=0, length_slices=1, epochs=1, logit_chunk=1024,      # ours
                 balance_rate=0.0, param_dtype='float32', grad_dtype='float32', reference_dtype='float32',  # ours
                 reference_refresh=25),                                          # paper (400 optimizer steps)
      eval=dict(every=10, problems=128, samples=16,                              # paper (16 samples)
                final_problems=256, final_samples=16, temperature=1.0, top_p=1.0),
      checkpoint=dict(every=5, keep=2, keep_every=50),                           # ours
      mesh=dict(data=1, fsdp=-1, expert=1, tp=1, seq=1),
      sampler_mesh=dict(data=0, fsdp=0, expert=0, tp=0, seq=0)))


def _gsm8k():
  """A small problem set, one optimizer step a rollout. Hardware: one accelerator or more, by the model. Not run."""
  c = _paper()
  c.steps = 10_400
  c.rollout.update(prompts=32, max_response=2048, chunk=8)
  c.train.update(minibatches=1, microbatch=64, reference_refresh=400)
  c.eval.update(every=50, samples=4)
  c.checkpoint.update(every=20, keep_every=400)
  return c


def _pod(preset, topology, mesh, chunk, microbatch, sampler=None, response=32_768, learning_rate=2e-6):
  """A recipe for a slice of a TPU pod, which `experiments.plan` says it fits; not run. See README, Pods.

  All numbers are ours, but for 32,768 tokens of response and the learning rates: 3e-6 is the paper's for DeepSeek-V3,
  2e-6 for R1-Zero-Qwen-32B.

  Args:
    mesh, sampler: {axis: devices} for training, and for sampling where that differs.
    chunk: prompts sampled at a time. microbatch: responses, each of another prompt.
    response: tokens.
  """
  c = _paper()
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
  return common.choose({'toy': _toy, 'toy_chain': _toy_chain, 'gsm8k': _gsm8k, **PODS}, variant)
