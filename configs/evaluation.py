"""Evaluations on tasks, with the paper's protocol: temperature 0.6, top-p 0.95, k samples by set (docs/evaluation.md).

  python -m experiments.evaluate --config configs/evaluation.py:small --config.model.path=DIR --workdir W
  python -m experiments.evaluate --config configs/evaluation.py:paper --config.folder=DATA \\
      --config.only="('aime_2024', 'math500')" --config.models.base=BASE --config.models.rl=RUN --workdir W

`k` is the paper's where it states one, else ours. Paths are relative to `folder`.
"""
from ml_collections import ConfigDict

from configs import common


def task(**settings):
  """A task, with every key, so that each can be set on the command line."""
  shots = dict(count=0, path='', response='{answer}') | settings.pop('few_shot', {})
  return dict(source='jsonl', path='', name='', kind='', language='', template='chat_boxed', answers=True, problem='',
              fields=dict(), filter=dict(), grader='math', options=dict(), threshold=1.0, samples=1, problems=0,
              max_response=0, few_shot=shots, split='') | settings


def _mmlu(**settings):
  return task(path='knowledge/mmlu_test.jsonl.gz', problem='{problem}\n\n{options}', grader='choice', split='subject',
              **settings)


TASKS = dict(
    aime_2024=task(path='math/aime24.jsonl', samples=64),                        # paper
    math500=task(path='math/math500.jsonl', samples=16, split='subject'),        # paper
    gsm8k=task(path='math/gsm8k_test.jsonl'),
    mgsm=task(path='zh/mgsm.jsonl', fields=dict(lang='language'), split='language'),
    cmath=task(path='zh/cmath.jsonl', template='chat_boxed_zh', language='zh', split='grade'),
    mmlu=_mmlu(),
    mmlu_few_shot=_mmlu(few_shot=dict(count=5, path='knowledge/mmlu_dev.jsonl', response='\\boxed{{answer}}')))

# Generated problems, and a prompt that any model can take.
TOY_TASKS = dict(
    stories=task(source='stories', template='plain', problems=16, samples=4),
    chain=task(source='chain', template='plain', problems=16, samples=4),
    countdown=task(source='countdown', template='plain', grader='countdown', problems=16, samples=4))


def _config(tasks, **settings):
  c = ConfigDict(dict(
      seed=0, only=(), folder='', chat_template='', workers=2, timeout=5.0, mesh=common.MESH,
      model=dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto'),
      rollout=dict(prompts=64, samples=1, max_prompt=4096, max_response=32_768,               # paper (the response)
                   temperature=0.6, top_p=0.95,                                               # paper
                   top_k=0, min_p=0.0, stop=(), weight_dtype='', cache_dtype='', chunk=8, slots=128)), sort_keys=False)
  c.tasks, c.models = ConfigDict(tasks, sort_keys=False), ConfigDict({}, sort_keys=False)
  c.update(settings)
  return c


def _paper():
  """All benchmarks. Hardware: by the model; see docs/pods.md. Not run at its size."""
  return _config(TASKS)


def _small():
  """Toy tasks, with any small model. Hardware: 2 CPU cores."""
  c = _config(TOY_TASKS, workers=1)
  c.model.dtype = 'float32'
  c.rollout.update(prompts=16, max_prompt=256, max_response=64, chunk=0, slots=0)
  return c


def get_config(variant='small'):
  return common.choose({'small': _small, 'paper': _paper}, variant)
