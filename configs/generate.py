"""Samples of a policy in bulk: for rejection sampling (stage 3), for distillation, for cold start.

  python -m experiments.generate --config configs/generate.py:toy --config.model.path=RUN --workdir D
  python -m experiments.generate --config configs/generate.py:stage3 --config.model.path=RUN \\
      --config.data.path=problems.jsonl --workdir D
  python -m experiments.generate --config configs/generate.py:endpoint --config.endpoint.url=https://HOST/v1 \\
      --config.endpoint.model=NAME --config.endpoint.api_key_env=KEY --config.data.path=problems.jsonl --workdir D

The paper says that several responses were sampled for each prompt, and no numbers: all are ours. `stage3` asks as RL
does for mathematics; an SFT of what it gives does so with --config.data.template=chat_boxed.
"""
from ml_collections import ConfigDict

from configs import common


def _stage3():
  """From the checkpoint of reasoning RL. Hardware: by the model; see docs/pods.md. Not run at its size."""
  return ConfigDict(dict(
      seed=0, split='train', problems=0, part=0, parts=1, endpoint=dict(),
      model=dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto'),
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.0, name='', template='chat_boxed',
                chat_template='r1', language='en', evaluation=()),
      rollout=dict(prompts=256, samples=16, max_prompt=1024, max_response=32_768, temperature=0.6, top_p=0.95, top_k=0,
                   min_p=0.0, stop=(), chunk=32, slots=0),
      reward=dict(parts=dict(math=1.0, format=0.0, language=0.0), accuracy='math',
                  options=dict(format=dict(form='r1')), gates=(), step_credit=0.0, workers=8, timeout=10.0,
                  overlong_buffer=0),
      topology='', mesh=dict(data=1, fsdp=-1, expert=1, tp=1, seq=1)))


def _endpoint():
  """From a teacher behind an endpoint, its thinking included."""
  c = _stage3()
  c.endpoint = ConfigDict(dict(url='', model='', api_key_env='', concurrency=32, timeout=1800.0, deadline=86_400.0))
  return c


def _toy():
  """From a run of `configs/r1_zero.py:toy`. Hardware: 2 CPU cores."""
  c = _stage3()
  c.problems = 512
  c.model.dtype = 'float32'
  c.data.update(source='trial', template='plain', chat_template='')
  c.rollout.update(prompts=64, samples=8, max_prompt=32, max_response=160, chunk=16, temperature=1.0, top_p=1.0)
  c.reward = ConfigDict(dict(parts=dict(signs=1.0, format=0.5), accuracy='signs', workers=1))
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'stage3': _stage3, 'endpoint': _endpoint}, variant)
