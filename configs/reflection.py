"""What reflection is worth to a base model and to what RL has made of it (docs/reflection.md).

  python -m experiments.reflection --config configs/reflection.py:gsm8k --config.data.path=gsm8k_test.jsonl \\
      --config.models.base=DIR --config.models.rl=RUN --workdir W

The paper's base models reflect already, to little effect; RL makes it useful. All numbers ours.
"""
from ml_collections import ConfigDict

from configs import common


def _math():
  """Problems of mathematics. Hardware: one accelerator or more, by the model. Not run."""
  c = ConfigDict(dict(
      seed=0, problems=512, temperatures=(0.0, 0.6, 1.0), tries=4, steps='line', mesh=common.MESH,
      closing='\n</think>\n', opening='\nThe final answer is \\boxed{', answer_tokens=32,
      answer_stop=('\n', '</answer>'),
      model=dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto'),
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='chat_boxed',
                chat_template='', language='en', evaluation=()),
      rollout=dict(prompts=32, samples=16, max_prompt=1024, max_response=8192, temperature=1.0, top_p=1.0, top_k=0,
                   min_p=0.0, stop=(), chunk=0, slots=128),
      reward=dict(parts=dict(math=1.0), accuracy='math', options=dict(math=dict(where='stated')), workers=8,
                  timeout=10.0)))
  c.models = ConfigDict(dict(), sort_keys=False)
  return c


def _gsm8k():
  """A small model on real problems, such as SmolLM2 and a run of configs/r1.py:smollm2. Hardware: 2 CPU cores."""
  c = _math()
  c.update(problems=64, temperatures=(0.6, 1.0))
  c.model.dtype = 'float32'
  c.data.eval_fraction = 0.0
  c.rollout.update(prompts=8, samples=8, max_prompt=320, max_response=256, slots=16)
  c.reward.workers = 1
  return c


def _toy():
  """Models of the toy R1 (configs/r1.py:toy), whose texts say `wait check` before they begin again. Hardware: 2 CPU
  cores."""
  c = _gsm8k()
  c.update(closing=' </think>', opening=' <answer>', answer_tokens=8, answer_stop=('</answer>',))
  c.data.update(source='r1_chain', template='plain', eval_fraction=0.05)
  c.rollout.update(prompts=16, samples=16, max_prompt=48, max_response=96, slots=64)
  c.reward.options = ConfigDict(dict())
  return c


def get_config(variant='gsm8k'):
  return common.choose({'toy': _toy, 'gsm8k': _gsm8k, 'math': _math}, variant)
