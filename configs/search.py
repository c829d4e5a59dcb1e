"""Ways to search at inference, compared on held-out problems (docs/search.md).

  python -m experiments.search --config configs/search.py:toy --config.model.path=RUN \\
      --config.reward.options.process.path=PRM --config.reward.options.preference.path=ORM --workdir W

The paper tried a process model and MCTS and gives no numbers (v1, section 4.2); all are ours.
"""
from ml_collections import ConfigDict

from configs import common

METHODS = dict(
    vote=dict(way='vote'),
    best_by_outcome=dict(way='best', scorer='preference'),
    best_by_process=dict(way='best', scorer='process'),
    best_by_rule=dict(way='best', scorer='math'),                                # an upper bound: pass@n
    weighted=dict(way='weighted', scorer='preference'),
    beam_2=dict(way='beam', scorer='process', width=2, samples=2),
    beam_4=dict(way='beam', scorer='process', width=4, samples=4),
    mcts=dict(way='tree', scorer='process', samples=4, simulations=32, choose='vote'))


def _method(**settings):
  return dict(way='', scorer='', width=4, samples=4, simulations=32, exploration=1.0, choose='best') | settings


def _math():
  """Problems of mathematics. Hardware: one accelerator or more, by the model. Not run."""
  c = ConfigDict(dict(
      seed=0, split='held_out', problems=128, steps='paragraph', step_tokens=512, mesh=common.MESH,
      model=dict(path='', preset='', dtype='bfloat16', remat='none', attention='auto'),
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='chat_boxed',
                chat_template='', language='en', evaluation=()),
      rollout=dict(prompts=64, samples=16, max_prompt=1024, max_response=8192, temperature=0.8, top_p=1.0, top_k=0,
                   min_p=0.0, stop=(), chunk=0, slots=128),
      reward=dict(parts=dict(math=1.0, preference=0.0, process=0.0), accuracy='math', workers=8, timeout=10.0,
                  options=dict(preference=dict(path=''), process=dict(path='', aggregate='min')))), sort_keys=False)
  c.methods = ConfigDict({name: _method(**settings) for name, settings in METHODS.items()}, sort_keys=False)
  return c


def _toy():
  """The world `nested`, with models of configs/ablations.py:rule_vs_orm_vs_prm. Hardware: 2 CPU cores."""
  c = _math()
  c.update(problems=64, steps='line', step_tokens=24)
  c.model.dtype = 'float32'
  c.data.update(source='nested', template='plain')
  c.rollout.update(max_prompt=32, max_response=128, temperature=1.0, slots=64)
  c.reward.workers = 1
  return c


def get_config(variant='toy'):
  return common.choose({'toy': _toy, 'math': _math}, variant)
