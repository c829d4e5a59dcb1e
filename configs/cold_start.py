"""Cold-start data: long chains of thought in R1's form, thousands of them (paper), in the paper's ways.

  python -m experiments.cold_start --config configs/cold_start.py:deepseek_v3 --config.data.path=problems.jsonl \\
      --config.ways.few_shot.model.path=V3_BASE --config.ways.direct.model.path=V3 \\
      --config.ways.zero.model.path=ZERO_RUN --config.ways.rewritten.model.path=V3 --workdir D
  python -m experiments.cold_start --config configs/cold_start.py:traces --config.ways.traces.path=F.jsonl --workdir D

The ways and the form are the paper's (special_token for the `|special_token|` form); it gives no numbers, so all are
ours.
"""
from ml_collections import ConfigDict

from configs import common

_NO_MODEL = dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto')


def _way(way, samples=8, temperature=0.6, **more):
  rollout = dict(prompts=256, samples=samples, max_prompt=4096, max_response=16_384, temperature=temperature,
                 top_p=0.95, top_k=0, min_p=0.0, stop=(), chunk=32, slots=0)
  return ConfigDict(dict(way=way, model=dict(_NO_MODEL), endpoint=dict(), rollout=rollout, chat=True,
                         template='r1_zero', shots=1, examples='', drafts='', path='', exclude='', keep=1) | more)


def _deepseek_v3():
  """Base, chat model and R1-Zero, whose chains the chat model rewrites. Hardware: by the model; not run at its size."""
  return ConfigDict(dict(
      seed=0, split='train', problems=5000, wording='text', layout='<think>\n{thinking}\n</think>\n\n{summary}',
      language=0.95, shortest=200, longest=60_000, repetition=0.2, paragraph=1200,
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='plain', chat_template='',
                language='en', evaluation=()),  # what RL holds out of the same file is not learned here
      reward=dict(parts=dict(math=1.0), accuracy='math', options=dict(), gates=(), step_credit=0.0, workers=8,
                  timeout=10.0, overlong_buffer=0),
      ways=dict(few_shot=_way('few_shot'), direct=_way('direct'),
                zero=_way('readable', temperature=1.0), rewritten=_way('rewrite', samples=2, drafts='zero')),
      topology='', mesh=dict(data=1, fsdp=-1, expert=1, tp=1, seq=1)))


def _special_token():
  """The same in the form that the paper gives: `|special_token|<reasoning_process>|special_token|<summary>`."""
  c = _deepseek_v3()
  c.layout = '|special_token|{thinking}|special_token|{summary}'
  return c


def _traces():
  """Chains that there are already, with fields problem, reasoning, response and perhaps answer."""
  c = _deepseek_v3()
  c.ways = ConfigDict(dict(traces=_way('traces', exclude='in_math500')))
  c.reward.workers, c.problems = 2, 0
  return c


def _toy():
  """For the recipe's toy world. Hardware: 2 CPU cores."""
  c = _deepseek_v3()
  c.update(problems=512, wording='toy', layout='<think> {thinking} </think> {summary}', shortest=0, longest=0,
           repetition=1.0, paragraph=0, language=1.0)
  part = lambda kind, weight=1.0: dict(source=f'r1_{kind}', weight=weight, kind=kind)
  c.data.update(source='mixture', parts=dict(chain=part('chain', 2.0), logic=part('logic'), code=part('code')))
  c.reward = ConfigDict(dict(parts=dict(), accuracy='', workers=1, timeout=10.0,
                             options=dict(code=dict(time_limit=2.0)),
                             parts_by_kind=dict(chain=dict(math=1.0), logic=dict(logic=1.0), code=dict(code=1.0))))
  ways = dict(few_shot=_way('few_shot', 4, 1.0, chat=False), direct=_way('direct', 4, 1.0, chat=False),
              zero=_way('readable', 4, 1.0, template='plain'))
  c.ways = ConfigDict(ways)
  for way in c.ways.values():
    way.model.dtype = 'float32'
    way.rollout.update(prompts=128, max_prompt=128, max_response=80, top_p=1.0, chunk=64)
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'deepseek_v3': _deepseek_v3, 'special_token': _special_token, 'traces': _traces},
                       variant)
