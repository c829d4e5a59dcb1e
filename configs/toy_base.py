"""Base models of the toy worlds: about 230k parameters, trained on generated text.

  python -m experiments.pretrain --config configs/toy_base.py:trial --workdir D

Hardware: 2 CPU cores. All numbers are ours.
"""
from ml_collections import ConfigDict

from configs import common


def _base(world):
  return ConfigDict(dict(
      seed=0, world=world, preset='toy', vocab=640, documents=30_000,
      steps=3200, batch=12, length=176, max_response=160, balance_rate=0.0,
      optimizer=dict(name='muon', learning_rate=1e-2, schedule='linear', warmup=20, final_fraction=0.02, grad_clip=1.0),
      gate=dict(steps=dict(start=0.97, term=0.97, sum=0.97, target=0.97, verdict=0.97), problems=128, samples=8,
                extra_steps=500, rounds=2)))


def _chain():
  c = _base('chain')
  c.update(steps=2600, batch=20, length=104, max_response=72)
  c.gate.steps = ConfigDict(dict(term=0.97, sum=0.65))  # its authors forget half of the carries
  return c


def _nested():
  """Sums of two digits take longer to learn; its authors forget most carries."""
  c = _base('nested')
  c.update(steps=4000, batch=12, length=176, max_response=128)
  c.gate.steps = ConfigDict(dict(term=0.95, sum=0.5))
  c.gate.rounds = 0
  return c


def _r1():
  """The recipe's: four kinds of problems in two languages. Its authors forget half of the hard steps in English."""
  c = _base('r1')
  c.update(vocab=800, steps=2800, batch=11, length=192, max_response=80)  # a window holds an example and a problem
  c.gate.update(problems=192, rounds=1)
  c.gate.steps = ConfigDict(dict(term=0.97, plain=0.97, hard_zh=0.93, hard_en=0.35, answer=0.9, logic_term=0.93,
                                 logic=0.93, logic_zh=0.9, code_term=0.92, code=0.9, code_zh=0.85, code_answer=0.85))
  return c


def _r1_student():
  """The same text for a smaller model, which needs more steps to learn it; its gate reports and adds no rounds."""
  c = _r1()
  c.update(preset='toy_student', steps=6400)
  c.gate.rounds = 0
  return c


def get_config(variant='trial'):
  return common.choose({'trial': lambda: _base('trial'), 'chain': _chain, 'nested': _nested, 'r1': _r1,
                        'r1_student': _r1_student}, variant)
