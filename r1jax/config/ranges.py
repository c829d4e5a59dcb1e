"""The allowed range of every number in the settings: one table, which `convert` checks against."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Range:
  """The finite numbers from `low` to `high`.

  Attributes:
    low, high: the ends, included unless `exclude_low` or `exclude_high` is set.
    also: one more number that is allowed: 0 for 'off', or OWN.
  """

  low: float
  high: float
  exclude_low: bool = False
  exclude_high: bool = False
  also: float | None = None

  def contains(self, value):
    if value == self.also:
      return True
    return (value > self.low if self.exclude_low else value >= self.low) and (
      value < self.high if self.exclude_high else value <= self.high
    )

  def __str__(self):
    number = lambda x: f'{x:,}' if isinstance(x, int) else f'{x:g}'
    opening, closing = '(' if self.exclude_low else '[', ')' if self.exclude_high else ']'
    also = '' if self.also is None else f', or be {number(self.also)}'
    return f'{opening}{number(self.low)}, {number(self.high)}{closing}{also}'


# The upper limits lie beyond what any machine could hold in memory (COUNT) or process in one run (LARGE).
COUNT, LARGE = Range(1, 1_000_000), Range(1, 1_000_000_000)
COUNT_OR_ZERO, LARGE_OR_ZERO = Range(0, 1_000_000), Range(0, 1_000_000_000)  # 0 means all, none or off
TOKENS, ROW_TOKENS = Range(1, 10_000_000), Range(8, 10_000_000)
SEED = Range(0, 2**31 - 1)
SHARE, SHARE_BELOW_1 = Range(0, 1), Range(0, 1, exclude_high=True)
FACTOR, SIGNED = Range(0, 1_000_000), Range(-1_000_000, 1_000_000)
OWN = -1  # stands for what the named loss has of itself
FACTOR_OR_OWN = Range(0, 1_000_000, also=OWN)
EPOCHS = Range(0, 10_000, exclude_low=True)
TEMPERATURE, TOP_P = Range(0, 100), Range(0, 1, exclude_low=True)
WORKERS = Range(1, 1024)
AXIS = Range(-1, 1_000_000)

_RUN = dict(seed=SEED, balance_rate=SHARE)
_SUPERVISED = _RUN | dict(epochs=EPOCHS, batch=COUNT, microbatch=COUNT_OR_ZERO)
_EVALUATION = dict(
  every=LARGE,
  samples=COUNT,
  final_problems=COUNT_OR_ZERO,
  final_samples=COUNT_OR_ZERO,
  temperature=TEMPERATURE,
  top_p=TOP_P,
)

_ROLLOUT = dict(
  prompts=COUNT,
  samples=COUNT,
  max_prompt=TOKENS,
  max_response=TOKENS,
  temperature=Range(0, 100, exclude_low=True),
  top_p=TOP_P,
  top_k=LARGE_OR_ZERO,
  min_p=SHARE_BELOW_1,
  chunk=COUNT_OR_ZERO,
  slots=COUNT_OR_ZERO,
)

# {name of the settings class: {field that is a number or a dict of numbers: its range}}
RANGES = {
  'RL': dict(seed=SEED, steps=LARGE),
  'Part': dict(eval_fraction=SHARE_BELOW_1, weight=FACTOR, start_step=LARGE_OR_ZERO),
  'Data': dict(eval_fraction=SHARE_BELOW_1, drop_solved=SHARE),
  'Rollout': _ROLLOUT,
  'Reward': dict(
    parts=SIGNED,
    step_credit=FACTOR,
    workers=WORKERS,
    timeout=Range(0, 1_000_000, exclude_low=True),
    overlong_buffer=LARGE_OR_ZERO,
    parts_by_kind=SIGNED,
    thresholds=SIGNED,
    start_step=LARGE_OR_ZERO,
  ),
  'Loss': dict(
    clip_low=FACTOR_OR_OWN,
    clip_high=FACTOR_OR_OWN,
    ratio_cap=FACTOR_OR_OWN,
    dual_clip=Range(1, 1_000_000, exclude_low=True, also=0),
    kl_coef=FACTOR_OR_OWN,
    tis_cap=FACTOR,
    mis_low=SHARE_BELOW_1,
    mis_high=FACTOR,
    sequence_mask=FACTOR,
    tv_mask=SHARE_BELOW_1,
    entropy_coef=SIGNED,
    resample_limit=Range(0, 1000),
  ),
  # There is no useful upper limit for the learning rate: a run with one too high diverges and reports it.
  'Optimizer': dict(
    learning_rate=Range(0, 1e38, exclude_low=True),
    warmup=LARGE_OR_ZERO,
    final_fraction=SHARE,
    b1=SHARE_BELOW_1,
    b2=SHARE_BELOW_1,
    eps=Range(0, 1, exclude_low=True),
    weight_decay=FACTOR,
    grad_clip=FACTOR,
  ),
  'Critic': dict(
    learning_rate=Range(0, 1e38, exclude_low=True), warmup=LARGE_OR_ZERO, clip=FACTOR, gamma=SHARE, gae_lambda=SHARE
  ),
  'Distill': dict(coef=FACTOR),
  'LoRA': dict(rank=COUNT_OR_ZERO, alpha=Range(0, 1_000_000, exclude_low=True)),
  'Train': dict(
    minibatches=COUNT,
    microbatch=COUNT_OR_ZERO,
    length_slices=COUNT,
    epochs=COUNT,
    logit_chunk=TOKENS,
    balance_rate=SHARE,
    reference_refresh=LARGE_OR_ZERO,
  ),
  'Evaluation': _EVALUATION | dict(problems=COUNT),
  # At least 2 checkpoints are kept: if the newest is damaged, the one before it is needed.
  'Checkpoint': dict(every=LARGE, keep=Range(2, 1_000_000), keep_every=LARGE_OR_ZERO),
  'Mesh': dict(data=AXIS, fsdp=AXIS, expert=AXIS, tp=AXIS, seq=AXIS),
  'Gate': dict(steps=SHARE, problems=COUNT, samples=COUNT, extra_steps=LARGE_OR_ZERO, rounds=COUNT_OR_ZERO),
  'Pretrain': _RUN | dict(vocab=COUNT, documents=LARGE, steps=LARGE, batch=COUNT, length=TOKENS, max_response=TOKENS),
  'Generate': dict(seed=SEED, problems=LARGE_OR_ZERO, part=COUNT_OR_ZERO, parts=COUNT),
  'FewShot': dict(count=Range(0, 1000)),
  'Task': dict(
    threshold=SIGNED, samples=COUNT_OR_ZERO, problems=LARGE_OR_ZERO, max_response=Range(1, 10_000_000, also=0)
  ),
  'TaskRollout': _ROLLOUT | dict(temperature=TEMPERATURE),
  'Reflection': dict(seed=SEED, problems=COUNT_OR_ZERO, answer_tokens=TOKENS, tries=COUNT),
  'Evaluate': dict(seed=SEED, workers=WORKERS, timeout=Range(0, 1_000_000, exclude_low=True)),
  'ColdWay': dict(shots=Range(0, 1000), keep=COUNT),
  'ColdStart': dict(
    seed=SEED,
    problems=LARGE_OR_ZERO,
    language=SHARE,
    shortest=LARGE_OR_ZERO,
    longest=LARGE_OR_ZERO,
    repetition=SHARE,
    paragraph=LARGE_OR_ZERO,
  ),
  'RewardModelData': dict(max_length=ROW_TOKENS, eval_fraction=SHARE_BELOW_1),
  'RewardModelEvaluation': dict(every=LARGE, examples=LARGE_OR_ZERO),
  'RewardModel': _SUPERVISED | dict(vocab=Range(300, 1_000_000)),  # a tokenizer has 256 byte tokens, and more
  'LabelSteps': dict(seed=SEED, per_problem=COUNT_OR_ZERO),
  'Method': dict(width=COUNT, samples=COUNT, simulations=COUNT, exploration=FACTOR),
  'Search': dict(seed=SEED, problems=COUNT, step_tokens=TOKENS),
  'SFTData': dict(max_length=ROW_TOKENS, eval_fraction=SHARE_BELOW_1),
  'SFTEvaluation': _EVALUATION
  | dict(texts=LARGE_OR_ZERO, problems=COUNT_OR_ZERO, batch=COUNT, max_prompt=TOKENS, max_response=TOKENS),
  'SFT': _SUPERVISED | dict(context=LARGE_OR_ZERO, logit_chunk=TOKENS, mtp_coef=FACTOR),
  'Filters': dict(
    language=SHARE,
    paragraph=LARGE_OR_ZERO,
    repetition=SHARE,
    repetition_ngram=COUNT,
    # Below 0.7 not all near duplicates would be found.
    near=Range(0.7, 1, also=0),
    near_ngram=COUNT,
  ),
  'MergedSource': dict(limit=LARGE_OR_ZERO),
  'Curate': dict(
    per_prompt=COUNT,
    window=Range(8, 1_000_000),
    overlap=Range(0, 1, exclude_low=True),
    chunk=COUNT,
    shard=LARGE,
    workers=WORKERS,
  ),
  'ToyFiles': dict(seed=SEED, pairs=LARGE_OR_ZERO, held_out_pairs=LARGE_OR_ZERO, answers=LARGE_OR_ZERO),
  'Recipe': dict(seed=SEED),
  'Ablation': dict(level=SIGNED),
}


def out_of_range(class_name, values, prefix):
  """Yields (dotted key, number, Range) for each number of a settings class that is out of its range.

  Args:
    class_name: a key of RANGES; classes that are not in it have no numbers.
    values: {field: value}; a value may be a dict, or a dict of dicts, of numbers.
    prefix: dotted path of the fields, with its last dot.
  """
  for field, allowed in RANGES.get(class_name, {}).items():
    if field in values:
      leaves = _leaves(values[field], prefix + field)
      yield from ((key, value, allowed) for key, value in leaves if not allowed.contains(value))


def _leaves(value, path):
  if hasattr(value, 'items'):
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f'{path}.{key}')]
  return [(path, value)]
