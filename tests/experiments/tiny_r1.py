"""The toy recipe in seconds: a base that has learned nothing yet, so that all that needs right answers is left out."""

from ml_collections import ConfigDict

from configs import r1

KEPT = ('base', 'zero', 'samples', 'people', 'curated', 'sft', 'helpful', 'final')


def _rl(c, steps=4):
  c.steps = steps
  c.rollout.update(prompts=4, samples=4, chunk=4, max_response=16)
  c.train.length_slices = 1
  c.eval.update(every=3, problems=4, samples=2, final_problems=4, final_samples=2)
  c.checkpoint.every = 2
  return c


def get_config():
  c = r1.get_config('toy')
  s = {name: c.stages[name] for name in KEPT}
  of = {name: stage.config for name, stage in s.items()}
  s['base'].evaluation = s['sft'].evaluation = ''
  of['base'].update(documents=2000, steps=40, max_response=8)
  of['base'].gate.update(problems=8, samples=1, rounds=0)
  _rl(of['zero'])
  of['samples'].model.path = 'stage:zero'
  of['samples'].update(problems=16)
  of['samples'].rollout.update(prompts=8, samples=2, chunk=4, max_response=16)
  of['people'].update(pairs=64, held_out_pairs=8, answers=64)
  of['sft'].data.update(max_length=128, eval_fraction=0.3)
  of['sft'].update(epochs=1.0)
  of['sft'].eval.update(every=2, problems=0)
  of['sft'].checkpoint.every = 2
  of['helpful'].update(batch=16)
  of['helpful'].eval.update(every=2, examples=4)
  of['helpful'].checkpoint.every = 2
  _rl(of['final'])
  begin = 2
  of['final'].data.parts.open.start_step = begin
  of['final'].reward.start_step.helpful = begin
  for evaluation in c.evaluations.values():
    _rl(evaluation)
  c.stages = ConfigDict(s, sort_keys=False)
  c.comparisons = ConfigDict(dict(both=dict(first='zero', second='final', figure='length')))
  return c
