"""The settings of the reward."""

import dataclasses

from r1jax.config.conversion import require

# Options of model-based rewards and of endpoints that affect how requests are made, but not the scores.
CLIENT_OPTIONS = ('cache', 'concurrency', 'timeout', 'deadline', 'retries', 'api_key_env', 'batch')


@dataclasses.dataclass(frozen=True)
class Reward:
  """The reward of a response: a weighted sum of parts, times the scores of the gates."""

  parts: dict[str, float]  # part name (a key of r1jax.rewards.REWARDS, or of `functions`) -> weight
  accuracy: str  # the part that decides whether a response is right; '': only those of accuracy_by_kind do
  options: dict[str, dict] = dataclasses.field(default_factory=dict)  # part -> keyword arguments of its function
  gates: tuple[str, ...] = ()  # parts whose scores multiply the weighted sum
  step_credit: float = 0.0  # weight of the part 'process' as step-level credit in the advantage; 0: off
  workers: int = 1  # grading processes
  timeout: float = 5.0  # seconds of CPU time to grade one response, after which it scores 0
  # DAPO's soft overlong punishment: it grows over this many tokens before rollout.max_response; 0: off.
  overlong_buffer: int = 0
  # {kind: {part: weight}}, for data with problems of several kinds. For problems of a kind listed here, these parts
  # replace the part `accuracy`; a part that is also in `parts` gets the weight given here.
  parts_by_kind: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  # {kind: part that decides whether a response is right; '': none does}. Required for kinds of parts_by_kind that do
  # not add exactly one part to those of `parts`.
  accuracy_by_kind: dict[str, str] = dataclasses.field(default_factory=dict)
  thresholds: dict[str, float] = dataclasses.field(default_factory=dict)  # part -> lowest score that counts as right; 1
  functions: dict[str, str] = dataclasses.field(default_factory=dict)  # part -> its reward, if the names differ
  start_step: dict[str, int] = dataclasses.field(default_factory=dict)  # part -> first step in which it counts; 0

  def __post_init__(self):
    require(self.parts or self.parts_by_kind, 'reward.parts is empty; name at least one reward and its weight.')
    require(
      self.accuracy in self.parts or (not self.accuracy and self.parts_by_kind),
      f'reward.accuracy is {self.accuracy!r}, which is not in reward.parts ({", ".join(self.parts)}).',
    )
    known = f'reward.parts ({", ".join(self.parts)})' + (' or reward.parts_by_kind' if self.parts_by_kind else '')
    for key in ('options', 'gates', 'thresholds', 'functions', 'start_step'):
      for name in getattr(self, key):
        require(
          name in self.names(),
          f'reward.{key} names {name!r}, which is not in {known}; add it there, with weight 0 if it is not to be part '
          'of the sum.',
        )
    self._check_kinds()
    require(
      self.step_credit == 0 or 'process' in self.names(),
      f"reward.step_credit is {self.step_credit}, but 'process' is not in {known}; add it there, with weight 0 if its "
      'score of the whole response is not to be part of the sum.',
    )
    for name in self.names():
      limit = self.options.get(name, {}).get('time_limit', 5.0) if self.function(name) == 'code' else 0
      require(
        not isinstance(limit, (int, float)) or limit < self.timeout,
        f'grading a response is stopped after reward.timeout of {self.timeout} s, but a single test of {name!r} '
        f'may take {limit} s; set reward.timeout above the time that all tests take together, such as 60.',
      )

  def _check_kinds(self):
    for kind, name in self.accuracy_by_kind.items():
      require(
        not name or name in self.weights(kind),
        f'reward.accuracy_by_kind.{kind} is {name!r}, which is not a part of that kind '
        f'({", ".join(self.weights(kind))}).',
      )
    for kind in self.parts_by_kind:
      added = self._added(kind)
      require(
        len(added) == 1 or kind in self.accuracy_by_kind,
        f'reward.parts_by_kind.{kind} adds {len(added)} parts{" (" if added else ""}{", ".join(added)}'
        f'{")" if added else ""}; name the one that decides whether a response is right in '
        f"reward.accuracy_by_kind.{kind} ('' for none).",
      )

  def names(self):
    """All parts, those of single kinds included: a list of names."""
    return list(dict.fromkeys([*self.parts, *(name for parts in self.parts_by_kind.values() for name in parts)]))

  def function(self, name):
    """The reward behind the part `name`: a key of r1jax.rewards.REWARDS or NEURAL, or 'module:function'."""
    return self.functions.get(name, name)

  def weights(self, kind=None):
    """The parts that score problems of a kind, with their weights: {name: float}."""
    if kind not in self.parts_by_kind:
      return dict(self.parts)
    return {name: w for name, w in self.parts.items() if name != self.accuracy} | dict(self.parts_by_kind[kind])

  def accuracy_of(self, kind=None):
    """The part that decides whether a response to a problem of a kind is right; '' if none does."""
    if kind in self.accuracy_by_kind:
      return self.accuracy_by_kind[kind]
    return self._added(kind)[0] if kind in self.parts_by_kind else self.accuracy

  def _added(self, kind):
    """The parts of a kind that problems of other kinds do not have."""
    return [name for name in self.parts_by_kind[kind] if name not in self.parts or name == self.accuracy]
