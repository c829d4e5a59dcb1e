"""The settings of a run of `experiments/search.py`."""

import dataclasses

from r1jax.config.conversion import require
from r1jax.config.problems import Data
from r1jax.config.reward import Reward
from r1jax.config.reward_model import STEP_RULES
from r1jax.config.rl import Mesh, Model, Rollout
from r1jax.config.stages import SPLITS

SAMPLED = ('vote', 'best', 'weighted')  # ways of search that choose among whole samples
WAYS = (*SAMPLED, 'beam', 'tree')
CHOICES = ('best', 'vote')


@dataclasses.dataclass(frozen=True)
class Method:
  """One way to search."""

  way: str  # one of WAYS: majority vote, best of n, weighted vote, beam search over steps, or MCTS over steps
  scorer: str = ''  # part of the reward whose score chooses or guides; without one ('vote') all samples are equal
  width: int = 4  # 'beam': beams that are kept
  samples: int = 4  # 'beam': steps sampled from each beam; 'tree': the most extensions of a node
  simulations: int = 32  # 'tree': leaves that are extended, at most
  exploration: float = 1.0  # 'tree': weight of the uncertainty in UCT
  # 'beam' and 'tree': the answer is that of the complete response with the highest score ('best'), or the one with the
  # largest sum of scores ('vote').
  choose: str = 'best'

  def __post_init__(self):
    require(self.way in WAYS, f'way is {self.way!r}; known: {", ".join(WAYS)}.')
    require(self.choose in CHOICES, f'choose is {self.choose!r}; known: {", ".join(CHOICES)}.')
    require(self.way != 'vote' or not self.scorer, f'way is vote, which has no scorer; leave out {self.scorer!r}.')
    require(self.way == 'vote' or self.scorer, f'way is {self.way!r}; name its scorer, a part of the reward.')


@dataclasses.dataclass(frozen=True)
class Search:
  """One run of `experiments/search.py`, which compares ways to search on the same problems."""

  seed: int
  model: Model
  data: Data
  # samples: whole responses to each problem, among which the ways of SAMPLED choose; prompts: problems that are sampled
  # at a time; slots: rows decoded at a time, also by the searches over steps.
  rollout: Rollout
  reward: Reward  # its accuracy part decides what is right; scorers are other parts, with weight 0
  methods: dict[str, Method]
  split: str = 'held_out'  # which problems: one of SPLITS
  problems: int = 64  # how many
  steps: str = 'line'  # what ends a step: one of STEP_RULES
  step_tokens: int = 64  # the most tokens of a step
  mesh: Mesh = Mesh()

  def __post_init__(self):
    require(self.methods, 'methods is empty; name at least one.')
    require(self.steps in STEP_RULES, f'steps is {self.steps!r}; known: {", ".join(STEP_RULES)}.')
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    require(self.rollout.slots, 'rollout.slots is 0; set how many rows are decoded at a time, such as 64.')
    require(
      not self.rollout.stop, 'rollout.stop has no effect here, as steps end with lines or paragraphs; leave it out.'
    )
    for name, method in self.methods.items():
      require(not set(name) & set('/. ,'), f'methods has the name {name!r}, which cannot be that of a file.')
      require(
        not method.scorer or method.scorer in self.reward.names(),
        f'methods.{name}.scorer is {method.scorer!r}, which is not in reward.parts '
        f'({", ".join(self.reward.names())}); add it there with weight 0.',
      )
