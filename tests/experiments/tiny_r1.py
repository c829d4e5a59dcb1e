"""The toy recipe in seconds: its base has learned nothing, so stages that need right answers are left out."""

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
  configs = {name: stage.config for name, stage in s.items()}
  s['base'].evaluation = s['sft'].evaluation = ''
  configs['base'].update(documents=2000, steps=40, max_response=8)
  configs['base'].gate.update(problems=8, samples=1, rounds=0)
  _rl(configs['zero'])
  configs['samples'].model.path = 'stage:zero'
  configs['samples'].update(problems=16)
  configs['samples'].rollout.update(prompts=8, samples=2, chunk=4, max_response=16)
  configs['people'].update(pairs=64, held_out_pairs=8, answers=64)
  configs['sft'].data.update(max_length=128, eval_fraction=0.3)
  configs['sft'].update(epochs=1.0)
  configs['sft'].eval.update(every=2, problems=0)
  configs['sft'].checkpoint.every = 2
  configs['helpful'].update(batch=16)
  configs['helpful'].eval.update(every=2, examples=4)
  configs['helpful'].checkpoint.every = 2
  _rl(configs['final'])
  start_step = 2
  configs['final'].data.parts.open.start_step = start_step
  configs['final'].reward.start_step.helpful = start_step
  for evaluation in c.evaluations.values():
    _rl(evaluation)
  c.stages = ConfigDict(s, sort_keys=False)
  c.comparisons = ConfigDict(dict(both=dict(first='zero', second='final', figure='length')))
  return c
