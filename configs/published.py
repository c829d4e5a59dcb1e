"""Runs of others, with a model that anybody can fetch and a figure to land on; variants of configs/r1_zero.py. Not run.

  python -m experiments.rl --config configs/r1_zero.py:simplerl_0_5b --config.model.path=QWEN2.5-0.5B --workdir D \\
      --config.data.parts.math.path=math_train.jsonl --config.data.parts.math.eval_path=gsm8k_test.jsonl
  python -m experiments.rl --config configs/r1_zero.py:verl_gsm8k --config.model.path=QWEN2.5-1.5B-INSTRUCT \\
      --config.data.path=gsm8k_train.jsonl.gz --config.data.eval_path=gsm8k_test.jsonl --workdir D  (or :maxtext_gsm8k)
  python -m experiments.rl --config configs/r1_zero.py:tinyzero --config.model.path=QWEN2.5-3B --workdir D

Hardware: eight TPU chips, the slice that each names, which experiments.plan says it fits. The mesh has as many devices
as there are, so that one GPU of 80 GB may do, perhaps with a smaller microbatch and fewer slots; that was not planned.

Numbers are marked `published` or `ours`. docs/published.md says where they are published, and what lands on what.
"""
from ml_collections import ConfigDict

from configs import common


def _run(preset, topology, steps, prompts, samples, max_prompt, max_response, minibatches, learning_rate, kl_coef):
  """What they have in common: GRPO, one pass over a rollout, one reference policy, and the defaults of verl."""
  c = common.rl()
  c.update(steps=steps, topology=topology)
  c.model.preset = preset
  c.rollout.update(prompts=prompts, samples=samples, max_prompt=max_prompt, max_response=max_response,
                   temperature=1.0)                                              # published
  c.reward.parts = ConfigDict(dict(math=1.0))                                    # published
  c.reward.options = ConfigDict(dict(math=dict(where='stated')))                 # ours (nearly what is published)
  c.reward.workers = 16                                                          # ours
  c.loss.update(name='dapo',                                                     # published (the mean over tokens)
                clip_low=0.2, clip_high=0.2,                                     # published
                kl_coef=kl_coef, kl_estimator='k3', kl_place='loss')             # published
  c.optimizer.update(learning_rate=learning_rate, schedule='constant', warmup=0,  # published
                     b1=0.9, b2=0.999, weight_decay=0.01, grad_clip=1.0)         # published
  c.train.update(minibatches=minibatches,                                        # published
                 reference_refresh=0,                                            # published
                 length_slices=samples, reference_dtype='bfloat16')              # ours
  c.eval.update(every=5,                                                         # published
                problems=256, samples=1,                                         # ours
                final_problems=1319, final_samples=1, temperature=0.0)           # published: GSM8K's test set, greedily
  c.checkpoint.update(every=10, keep_every=0)                                    # ours
  return c


def _simplerl(preset, levels, slots, microbatch):
  """SimpleRL-Zoo: a base model learns MATH, and gets better at GSM8K. levels: of MATH's problems, published."""
  c = _run(preset, 'v5e:2x4', steps=100, prompts=1024, samples=8, max_prompt=1024, max_response=8192, minibatches=4,
           learning_rate=5e-7, kl_coef=1e-4)                                     # published
  c.loss.entropy_coef = 1e-3                                                     # published
  # Levels are numbers in one published form of MATH, and texts in another.
  levels = tuple(form.format(n) for n in levels for form in ('{}', 'Level {}'))
  c.data.update(source='mixture', eval_fraction=0.0,
                template='step_by_step',                                         # published (the simple prompt)
                parts=dict(math=common.part(kind='math', language='en', filter=dict(level=levels))))
  c.eval.update(temperature=1.0, top_p=0.95)                                     # published
  c.rollout.update(chunk=64, slots=slots)                                        # ours
  c.train.microbatch = microbatch                                                # ours
  return c


def _verl_gsm8k():
  """verl's example of GRPO on GSM8K, with Qwen2.5-1.5B-Instruct."""
  c = _run('qwen2_5_1_5b', 'v5e:2x4', steps=140, prompts=1024, samples=5, max_prompt=512, max_response=1024,
           minibatches=4, learning_rate=1e-6, kl_coef=1e-3)                      # published
  c.loss.dual_clip = 3.0                                                         # published
  c.data.template = 'chat_gsm8k'                                                 # published
  c.rollout.chunk = 128                                                          # ours
  c.train.microbatch = 64                                                        # ours
  return c


def _maxtext_gsm8k():
  """MaxText and Tunix, Qwen3-1.7B on GSM8K. Published are steps, learning rate, KL and mean; all else is ours."""
  c = _run('qwen3_1_7b', 'v6e:2x4', steps=100, prompts=64, samples=8, max_prompt=512, max_response=1024,
           minibatches=1, learning_rate=2e-6, kl_coef=0.04)
  c.optimizer.update(b2=0.95, weight_decay=0.0, warmup=10)                       # ours
  c.data.template = 'chat_boxed'                                                 # ours
  c.rollout.chunk = 64                                                           # ours
  c.train.microbatch = 64                                                        # ours
  return c


def _tinyzero():
  """TinyZero: Countdown with the base model Qwen2.5-3B. The published run is PPO; the GRPO is that of its issue 23."""
  c = _run('qwen2_5_3b', 'v5e:2x4', steps=250, prompts=256, samples=5, max_prompt=256, max_response=1024,
           minibatches=2, learning_rate=1e-6, kl_coef=1e-3)                      # published, but for the steps
  c.loss.entropy_coef = 1e-3                                                     # published
  c.data.update(source='countdown',                                              # ours (made like the published set)
                template='countdown', eval_fraction=0.0)                         # published
  c.reward.parts = ConfigDict(dict(countdown=1.0))                               # published
  c.reward.accuracy = 'countdown'
  c.reward.options = ConfigDict(dict(countdown=dict(where='tags', attempt=0.1)))  # published
  c.eval.update(every=10, final_problems=1024)                                   # ours
  c.rollout.chunk = 64                                                           # ours
  c.train.microbatch = 32                                                        # ours
  return c


VARIANTS = {
    'simplerl_0_5b': lambda: _simplerl('qwen2_5_0_5b', (1, 2, 3, 4), slots=256, microbatch=16),
    'simplerl_1_5b': lambda: _simplerl('qwen2_5_1_5b', (3, 4, 5), slots=128, microbatch=8),
    'verl_gsm8k': _verl_gsm8k,
    'maxtext_gsm8k': _maxtext_gsm8k,
    'tinyzero': _tinyzero,
}
