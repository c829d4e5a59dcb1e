"""What each number of the settings may be: one table, which `convert` goes by."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Range:
  """Finite numbers from `low` to `high`, but for these themselves where `above` or `below` say so; or 0 with `off`."""

  low: float
  high: float
  above: bool = False
  below: bool = False
  off: bool = False

  def holds(self, value):
    if self.off and value == 0:
      return True
    return (value > self.low if self.above else value >= self.low) and (
      value < self.high if self.below else value <= self.high
    )

  def __str__(self):
    number = lambda x: f'{x:,}' if isinstance(x, int) else f'{x:g}'
    ends = f'{"(" if self.above else "["}{number(self.low)}, {number(self.high)}{")" if self.below else "]"}'
    return ends + (', or be 0' if self.off else '')


# Counts of what a run holds in memory or passes through end where no machine could follow.
COUNT, LARGE = Range(1, 1_000_000), Range(1, 1_000_000_000)
SOME, MANY = Range(0, 1_000_000), Range(0, 1_000_000_000)  # 0: all, none or off
TOKENS, ROW = Range(1, 10_000_000), Range(8, 10_000_000)
SEED = Range(0, 2**31 - 1)
SHARE, PART = Range(0, 1), Range(0, 1, below=True)
FACTOR, NUMBER = Range(0, 1_000_000), Range(-1_000_000, 1_000_000)
EPOCHS = Range(0, 10_000, above=True)
TEMPERATURE, TOP_P = Range(0, 100), Range(0, 1, above=True)
WORKERS = Range(1, 1024)
AXIS = Range(-1, 1_000_000)

_RUN = dict(seed=SEED, balance_rate=SHARE)
_LEARNING = _RUN | dict(epochs=EPOCHS, batch=COUNT, microbatch=SOME)
_TESTED = dict(
  every=LARGE, samples=COUNT, final_problems=SOME, final_samples=SOME, temperature=TEMPERATURE, top_p=TOP_P
)

# Class of settings -> its number, or its dict of numbers -> range.
RANGES = {
  'RL': dict(seed=SEED, steps=LARGE),
  'Part': dict(eval_fraction=PART, weight=FACTOR, start_step=MANY),
  'Data': dict(eval_fraction=PART),
  'Rollout': dict(
    prompts=COUNT,
    samples=COUNT,
    max_prompt=TOKENS,
    max_response=TOKENS,
    temperature=Range(0, 100, above=True),
    top_p=TOP_P,
    top_k=MANY,
    min_p=PART,
    chunk=SOME,
  ),
  'Reward': dict(
    parts=NUMBER,
    step_credit=FACTOR,
    workers=WORKERS,
    timeout=Range(0, 1_000_000, above=True),
    overlong_buffer=MANY,
    parts_by_kind=NUMBER,
    thresholds=NUMBER,
    start_step=MANY,
  ),
  'Loss': dict(
    clip_low=FACTOR,
    clip_high=FACTOR,
    dual_clip=Range(1, 1_000_000, above=True, off=True),
    kl_coef=FACTOR,
    tis_cap=FACTOR,
    entropy_coef=NUMBER,
    resample_limit=Range(0, 1000),
  ),
  # A rate that is too high is for the run to find: it diverges, and says so.
  'Optimizer': dict(
    learning_rate=Range(0, 1e38, above=True),
    warmup=MANY,
    final_fraction=SHARE,
    b1=PART,
    b2=PART,
    eps=Range(0, 1, above=True),
    weight_decay=FACTOR,
    grad_clip=FACTOR,
  ),
  'Train': dict(
    minibatches=COUNT,
    microbatch=SOME,
    length_slices=COUNT,
    epochs=COUNT,
    logit_chunk=TOKENS,
    balance_rate=SHARE,
    reference_refresh=MANY,
  ),
  'Evaluation': _TESTED | dict(problems=COUNT),
  'Checkpoint': dict(every=LARGE, keep=Range(2, 1_000_000), keep_every=MANY),  # a damaged newest needs one before it
  'Mesh': dict(data=AXIS, fsdp=AXIS, expert=AXIS, tp=AXIS, seq=AXIS),
  'Gate': dict(steps=SHARE, problems=COUNT, samples=COUNT, extra_steps=MANY, rounds=SOME),
  'Pretrain': _RUN | dict(vocab=COUNT, documents=LARGE, steps=LARGE, batch=COUNT, length=TOKENS, max_response=TOKENS),
  'Generate': dict(seed=SEED, problems=MANY, part=SOME, parts=COUNT),
  'ColdWay': dict(shots=Range(0, 1000), keep=COUNT),
  'ColdStart': dict(
    seed=SEED, problems=MANY, language=SHARE, shortest=MANY, longest=MANY, repetition=SHARE, paragraph=MANY
  ),
  'RewardModelData': dict(max_length=ROW, eval_fraction=PART),
  'RewardModelEvaluation': dict(every=LARGE, examples=MANY),
  'RewardModel': _LEARNING | dict(vocab=Range(300, 1_000_000)),  # a tokenizer needs 256 bytes and more
  'SFTData': dict(max_length=ROW, eval_fraction=PART),
  'SFTEvaluation': _TESTED | dict(texts=MANY, problems=SOME, batch=COUNT, max_prompt=TOKENS, max_response=TOKENS),
  'SFT': _LEARNING | dict(context=MANY, logit_chunk=TOKENS),
  'Filters': dict(
    language=SHARE,
    paragraph=MANY,
    repetition=SHARE,
    repetition_ngram=COUNT,
    near=Range(0.7, 1, off=True),
    near_ngram=COUNT,
  ),  # below 0.7 not all near duplicates are found
  'MergedSource': dict(limit=MANY),
  'Curate': dict(
    per_prompt=COUNT,
    window=Range(8, 1_000_000),
    overlap=Range(0, 1, above=True),
    chunk=COUNT,
    shard=LARGE,
    workers=WORKERS,
  ),
  'ToyFiles': dict(seed=SEED, pairs=MANY, held_out_pairs=MANY, answers=MANY),
  'Recipe': dict(seed=SEED),
}


def outside(cls, values, at):
  """(key, number, Range) of the numbers of a class of settings that are out of their range.

  Args:
    cls: the class's name. values: {key: value}; a value may be a dict, or dict of dicts, of numbers.
    at: of the keys' path, with its last dot.
  """
  for key, allowed in RANGES.get(cls, {}).items():
    if key in values:
      yield from ((name, value, allowed) for name, value in _leaves(values[key], at + key) if not allowed.holds(value))


def _leaves(value, at):
  if hasattr(value, 'items'):
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f'{at}.{key}')]
  return [(at, value)]
