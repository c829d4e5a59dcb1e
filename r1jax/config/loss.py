"""The settings of an RL objective, and what each named loss has for those that are not set."""

import dataclasses
from typing import Any

from r1jax.config.conversion import require

# What a loss has where a setting is '' or -1.0. A 0.0 of clip_low, clip_high or ratio_cap means that it has none.
LOSS_DEFAULTS: dict[str, dict[str, Any]] = {
  # The paper's (arXiv 2501.12948; clip range ours, as it is not stated for R1-Zero).
  'grpo': dict(advantage='group', clip_low=0.2, clip_high=0.2, kl_coef=1e-3, average='response', ratio_cap=0.0),
  # arXiv 2503.20783.
  'dr_grpo': dict(
    advantage='group_centred', clip_low=0.2, clip_high=0.2, kl_coef=0.0, average='constant', ratio_cap=0.0
  ),
  # arXiv 2503.14476, section 4.1.
  'dapo': dict(advantage='group', clip_low=0.2, clip_high=0.28, kl_coef=0.0, average='token', ratio_cap=0.0),
  # arXiv 2506.13585, which does not state its cap. This one is ours; other implementations have 4 or 5.
  'cispo': dict(advantage='group', clip_low=0.0, clip_high=0.0, kl_coef=0.0, average='token', ratio_cap=5.0),
  # arXiv 2507.18071, section 5.1.
  'gspo': dict(advantage='group', clip_low=3e-4, clip_high=4e-4, kl_coef=0.0, average='response', ratio_cap=0.0),
  # With the leave-one-out baseline, which is unbiased (arXiv 2402.14740).
  'reinforce': dict(advantage='rloo', clip_low=0.0, clip_high=0.0, kl_coef=0.0, average='sequence', ratio_cap=0.0),
}
AVERAGES = ('response', 'token', 'constant', 'prompt', 'sequence')
KL_ESTIMATORS = ('k1', 'k2', 'k3', 'k3_weighted')


def resolve_loss(settings):
  """The section `loss` of a config, a dict, with the named loss's own numbers in place of '' and -1.0.

  `average` stays '': records of runs from before it existed, of whatever loss, must still agree.
  """
  own = LOSS_DEFAULTS.get(settings.get('name'), {})
  return settings | {
    key: value for key, value in own.items() if key != 'average' and settings.get(key, value) in ('', -1.0)
  }


@dataclasses.dataclass(frozen=True)
class Loss:
  """Where a setting is '' or -1.0 it is the named loss's own: see LOSS_DEFAULTS. Once made, a Loss has plain values."""

  name: str  # a key of LOSS_DEFAULTS
  # A key of r1jax.losses.ADVANTAGES; 'gae' for PPO, which trains a critic too; 'zero' learns nothing from rewards.
  advantage: str = ''
  average: str = ''  # over what the costs of tokens are averaged: one of AVERAGES, or '', the loss's own, always
  clip_low: float = -1.0
  clip_high: float = -1.0
  ratio_cap: float = -1.0  # of the importance ratio that is cispo's weight; 0: none
  dual_clip: float = 0.0  # c of dual-clip PPO, which bounds the objective from below where A < 0; 0: off
  kl_coef: float = -1.0
  kl_estimator: str = 'k3'  # one of KL_ESTIMATORS
  kl_place: str = 'loss'  # where the KL penalty goes: 'loss' or 'reward'
  tis_cap: float = 0.0  # cap of the importance weight between trainer and sampler (truncated IS); 0: off
  # Masked importance sampling: tokens whose importance weight between trainer and sampler lies outside of these do not
  # count. mis_high 0: off.
  mis_low: float = 0.0
  mis_high: float = 0.0
  mis_level: str = 'token'  # 'sequence': the geometric mean over a response decides, for all its tokens
  # Off-policy sequence masking: responses with a negative advantage, to whose tokens the policy gives a log-prob that
  # is lower than the sampler's by more than this, on average, do not count. 0: off.
  sequence_mask: float = 0.0
  # Tokens whose probability is farther from the sampler's than this do not count where they would go farther. 0: off.
  tv_mask: float = 0.0
  entropy_coef: float = 0.0  # weight of the entropy bonus, which is subtracted from the loss
  # DAPO's dynamic sampling: how many extra rollouts a step may draw to replace groups that are all right or all wrong.
  # Such groups fill what is still missing after that. 0: off.
  resample_limit: int = 0
  # Groups whose rewards are all equal do not count in the loss's means, nor in the KL term and the entropy (ScaleRL).
  drop_zero_variance: bool = False

  def __post_init__(self):
    require(self.name in LOSS_DEFAULTS, f'loss.name is {self.name!r}; known: {", ".join(LOSS_DEFAULTS)}.')
    for key, value in resolve_loss(vars(self)).items():
      object.__setattr__(self, key, value)
    self._check_names()
    self._check_ratio()
    require(
      not self.drop_zero_variance or self.advantage not in ('none', 'gae', 'zero'),
      f'loss.drop_zero_variance leaves out groups whose rewards are all equal, but with loss.advantage '
      f"{self.advantage!r} these are learned from too; use another advantage, such as 'group', or set it to False.",
    )
    require(
      self.mis_low < 1 < self.mis_high or self.mis_low == self.mis_high == 0,
      f'loss.mis_low is {self.mis_low} and loss.mis_high {self.mis_high}; a weight of 1, where sampler and trainer '
      'agree, must lie between them. Set both to 0 to switch the masking off.',
    )
    require(
      self.mis_level == 'token' or self.mis_high,
      "loss.mis_level 'sequence' does nothing without loss.mis_low and loss.mis_high; set both, such as 0.5 and 2.0.",
    )
    require(
      self.kl_estimator != 'k3_weighted' or self.kl_place == 'loss',
      "loss.kl_estimator 'k3_weighted' has its effect in its gradient, so that it would be k3 in the reward; "
      "use 'k1' there, or set loss.kl_place to 'loss'.",
    )
    if self.average == LOSS_DEFAULTS[self.name]['average']:
      object.__setattr__(self, 'average', '')

  @property
  def reads_logprobs(self):
    """Whether anything is learned through the log-probs of the sampled tokens."""
    return self.advantage != 'zero' or bool(self.kl_coef or self.entropy_coef)

  @property
  def averaged_over(self):
    """One of AVERAGES."""
    return self.average or LOSS_DEFAULTS[self.name]['average']

  def _check_names(self):
    for key, known in (
      ('average', ('', *AVERAGES)),
      ('kl_estimator', KL_ESTIMATORS),
      ('kl_place', ('loss', 'reward')),
      ('mis_level', ('token', 'sequence')),
    ):
      value = getattr(self, key)
      require(value in known, f'loss.{key} is {value!r}; use {", ".join(repr(name) for name in known)}.')

  def _check_ratio(self):
    """Refuses settings of the importance ratio that the named loss does not read."""
    require(
      self.name == 'cispo' or not self.ratio_cap,
      f"loss.ratio_cap is {self.ratio_cap}, which only loss.name 'cispo' has; leave it at -1.0.",
    )
    if self.name in ('cispo', 'reinforce'):
      for key in ('clip_low', 'clip_high', 'dual_clip'):
        require(
          not getattr(self, key),
          f'loss.{key} is {getattr(self, key)}, but loss.name {self.name!r} clips no ratio; set it to 0.0'
          + (', and loss.ratio_cap instead.' if self.name == 'cispo' else '.'),
        )
    if self.name == 'gspo':
      require(
        self.average in ('', 'response'),
        f"loss.average is {self.average!r}, but loss.name 'gspo' has one ratio for each response, whose mean it takes; "
        "leave it at ''.",
      )
      require(
        not self.tv_mask,
        f"loss.tv_mask is {self.tv_mask}, but loss.name 'gspo' has one ratio for each response, not for each token; "
        'set it to 0.0, or use another loss.',
      )
