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


def _choice(path, **settings):
  return task(path=path, problem='{problem}\n\n{options}', grader='choice', **settings)


def _code(path, samples=1, **settings):
  return task(path=path, grader='code', samples=samples, answers=False, **settings)


MMLU = dict(path='knowledge/mmlu_test.jsonl.gz', split='subject')
SHOTS = dict(count=5, path='knowledge/mmlu_dev.jsonl', response='\\boxed{{answer}}')

# Files in the root of `folder` are not public in one piece, or not in our form: docs/evaluation.md says what they hold.
TASKS = dict(
    aime_2024=task(path='math/aime24.jsonl', samples=64),                        # paper
    aime_2025=task(path='math/aime25.jsonl', samples=64),
    amc_2023=task(path='math/amc23.jsonl', samples=16),
    math500=task(path='math/math500.jsonl', samples=16, split='subject'),        # paper
    olympiadbench=task(path='math/olympiadbench_en.jsonl', split='subfield'),
    gsm8k=task(path='math/gsm8k_test.jsonl', options=dict(where='stated')),
    mgsm=task(path='zh/mgsm.jsonl', fields=dict(lang='language'), split='language'),
    cmath=task(path='zh/cmath.jsonl', template='chat_boxed_zh', language='zh', split='grade'),
    cn_middle_school=task(path='zh/cn_middle_school.jsonl', kind='math', template='chat_boxed_zh', language='zh'),
    gaokao_2024=task(path='zh/gaokao2024_mix.jsonl', template='chat_boxed_zh', language='zh'),
    gaokao_cloze=task(path='zh/gaokao_math_cloze.jsonl', template='chat_boxed_zh', language='zh'),
    gaokao_choice=_choice('zh/gaokao_math_qa.jsonl', template='chat_boxed_zh', language='zh'),
    mmlu=_choice(**MMLU),
    mmlu_few_shot=_choice(**MMLU, few_shot=SHOTS),
    mmlu_pro=_choice('knowledge/mmlu_pro.jsonl.gz', split='category'),
    gpqa=_choice('gpqa.jsonl', samples=64),                                      # paper
    knights=task(path='logic/knights_knaves_test.jsonl', grader='logic', split='people'),
    humaneval=_code('code/humaneval.jsonl', problem='Complete this function.\n```python\n{prompt}\n```'),
    mbpp=_code('code/mbpp.jsonl', problem='{prompt}\nIt must pass these tests:\n{asserts}',
               fields=dict(tests='asserts'), filter=dict(split=('test',))),
    livecodebench=_code('livecodebench.jsonl', 8, fields=dict(tests='io'),        # paper
                        problem='{problem}\n{starter_code}'),
    code_contests=_code('code/code_contests_test.jsonl.gz', fields=dict(tests='io')),
    codeforces=_code('code/codeforces.jsonl', 16, fields=dict(tests='io')),      # paper
    apps=_code('code/apps_150.jsonl', fields=dict(tests='io', kind='form'), problem='{problem}\n{starter_code}',
               split='difficulty'),
    ifeval=task(path='instruct/ifeval.jsonl', template='chat', grader='ifeval', problem='{prompt}', answers=False),
    drop=task(path='drop.jsonl', template='chat', grader='drop_f1', fields=dict(answer='answers'), answers=False),
    simpleqa=task(path='simpleqa.jsonl', template='chat', grader='judge', options=dict(question='attempt')),
    frames=task(path='frames.jsonl', template='chat', grader='judge', options=dict(question='attempt')),
    alpaca_eval=task(path='alpaca_eval.jsonl', template='chat', grader='pairwise', threshold=0.75, answers=False),
    arena_hard=task(path='arena_hard.jsonl', template='chat', grader='pairwise', threshold=0.75, answers=False),
    harm_refused=task(path='coldstart/star1_safety.jsonl.gz', template='chat', grader='refusal', answers=False,
                      split='category'),
    harm_safe=task(path='coldstart/star1_safety.jsonl.gz', template='chat', grader='judge', answers=False,
                   options=dict(question='safety'), split='category'))

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
  return _config(TASKS, timeout=60.0)


def _small():
  """Toy tasks, with any small model. Hardware: 2 CPU cores."""
  c = _config(TOY_TASKS, workers=1)
  c.model.dtype = 'float32'
  c.rollout.update(prompts=16, max_prompt=256, max_response=64, chunk=0, slots=0)
  return c


def get_config(variant='small'):
  return common.choose({'small': _small, 'paper': _paper}, variant)
