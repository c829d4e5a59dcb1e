"""R1's two stages of reinforcement learning: on reasoning, and for all scenarios. Not run at their size.

  python -m experiments.rl --config configs/r1_rl.py:reasoning --config.model.path=DIR --workdir D \\
      --config.data.parts.gsm8k.path=gsm8k_train.jsonl.gz ...             (every part's file; weight=0.0 leaves one out)

`reasoning` is stage 2: mathematics, code, science and logic by rule, and the chain's language. `all_scenarios` is
stage 4: the same, and in the last 25 steps requests without an answer, by reward models of helpfulness and harmlessness
(`configs/reward_model.py:helpful`, `:safety`). A step is one rollout with its 16 optimizer steps, in which the paper
counts. Numbers are marked `paper` (docs/paper.md, v2 of the report) or `ours`.
"""
from ml_collections import ConfigDict

from configs import common

_part = common.part


def _reasoning():
  """Stage 2. The paper's prompts are 26,000 of mathematics, 25,000 of code, 22,000 of STEM and 15,000 of logic.

  It is asked as the SFT before it has taught; where numbers are as R1-Zero's, the paper says so of this stage.
  """
  c = common.rl()
  c.steps = 650                                                                  # ours (not stated)
  c.data.update(source='mixture', eval_fraction=0.0, template='chat', chat_template='r1', parts=dict(
      gsm8k=_part(kind='math', language='en', template='chat_boxed', weight=20.0),  # paper: 26 for both of mathematics
      cmath=_part(kind='math', language='zh', weight=6.0, template='chat_boxed_zh'),  # ours (the share)
      mbpp=_part(kind='code', language='en', weight=25.0,                        # paper (17 + 8)
                 fields=dict(prompt='problem', tests='asserts', code='answer', challenge_tests='hidden_asserts'),
                 filter=dict(split=('train',)),
                 # One test is shown, for the name; a table of the arguments shown fails the hidden ones.
                 problem='{problem}\nYour Python program must pass this test, and others that are not '
                         'shown:\n{asserts:1}'),
      stem=_part(kind='choice', language='en', template='chat_boxed', weight=22.0,  # paper
                 problem='{problem}\n{options}'),
      knights=_part(kind='logic', language='en', weight=15.0)))                  # paper
  c.reward = ConfigDict(dict(
      parts=dict(format=1.0,                                                     # paper (equal weight)
                 language=1.0),                                                  # paper (added to the accuracy)
      accuracy='', parts_by_kind={kind: {kind: 1.0} for kind in ('math', 'code', 'logic', 'choice')},
      options=dict(format=dict(form='r1'),                                       # paper (a summary), ours (the tags)
                   logic=dict(where='summary')),                                 # ours
      accuracy_by_kind=dict(), thresholds=dict(), functions=dict(), start_step=dict(), gates=(), step_credit=0.0,
      workers=16, timeout=60.0, overlong_buffer=0))                              # ours
  c.loss.update(clip_low=10.0, clip_high=10.0)                                   # paper (stated for this stage)
  return c


GENERAL_STEPS = 25                                                               # paper (400 optimizer steps)


def _all_scenarios():
  """Stage 4. Prompts without an answer: 66,000 general ones and 12,000 about harm, in the paper.

  What is as in stage 2, the learning rate, the KL term and its reference, the clip, the shape of a rollout and the
  length, the paper gives for R1-Zero or for stage 2 alone: ours here.
  """
  c = _reasoning()
  c.steps = 106                                                                  # paper (1,700 optimizer steps)
  c.rollout.temperature = 0.7                                                    # paper
  last = c.steps - GENERAL_STEPS
  for name, weight in (('requests', 66.0), ('harm', 12.0)):                      # paper
    c.data.parts[name] = _part(kind='helpful' if name == 'requests' else 'harmless', weight=weight, start_step=last,
                               answers=False, fields=dict(prompt='problem'))     # paper (weights, and the begin)
  # The general reward: a model's score, and the form. Helpfulness sees the summary, harmlessness the whole response.
  c.reward.parts_by_kind.helpful = ConfigDict(dict(helpful=1.0))                        # ours (weights are not stated)
  c.reward.parts_by_kind.harmless = ConfigDict(dict(helpful=0.5, harmless=1.0))         # ours
  c.reward.accuracy_by_kind = ConfigDict(dict(harmless='harmless'))
  c.reward.functions = ConfigDict(dict(helpful='preference', harmless='preference'))
  c.reward.options.helpful = ConfigDict(dict(path='', view='summary', dtype='bfloat16'))  # paper (the view)
  c.reward.options.harmless = ConfigDict(dict(path='', view='whole', dtype='bfloat16'))   # paper (the view)
  c.reward.thresholds = ConfigDict(dict(helpful=0.5, harmless=0.5))                    # ours
  c.reward.start_step = ConfigDict(dict(helpful=last, harmless=last))                 # paper
  return c


def _small():
  """`reasoning` in small, for a model of a few hundred thousand parameters on 2 CPU cores: does it run? Ours."""
  c = _reasoning()
  c.steps = 4
  c.data.update(template='r1_zero', chat_template='')
  for part in c.data.parts.values():
    part.template = ''
  c.data.parts.stem.weight = 0.0
  c.model.update(dtype='float32', remat='none')
  c.rollout.update(prompts=8, samples=4, max_prompt=512, max_response=48)
  c.train.update(minibatches=1)
  c.reward.workers = 2
  c.eval.update(every=2, problems=8, samples=2, final_problems=8, final_samples=2)
  c.checkpoint.update(every=2, keep_every=0)
  return c


def get_config(variant='reasoning'):
  return common.choose({'reasoning': _reasoning, 'all_scenarios': _all_scenarios, 'small': _small}, variant)
