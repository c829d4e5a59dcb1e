"""Loads the problems of a config, and checks that its rewards can score them."""

import dataclasses
import logging

from r1jax import config as config_lib
from r1jax import data, rewards, templates
from r1jax.recipes import dataset
from r1jax.rewards import needs

log = logging.getLogger('r1jax')


def load_problems(cfg, reward):
  """Loads the data.Problems of a config.Data that the rewards of a config.Reward can score.

  Rows that cannot be scored count as malformed. Training problems that contain a problem of cfg.evaluation are dropped,
  counted and logged.
  """
  problems = data.load(cfg, needs.checker(reward))
  check_kinds(reward, problems)
  if not cfg.evaluation:
    return problems
  train, contaminated = dataset.decontaminated(problems.train, cfg.evaluation)
  if contaminated:
    log.warning(
      'data.evaluation: dropped %d of %d training problems that contain an evaluation problem: %s.',
      sum(contaminated.values()),
      len(problems.train),
      ', '.join(f'{count} of {entry}' for entry, count in contaminated.items()),
    )
  if not train:
    raise data.DataError(
      f'all {len(problems.train)} training problems contain a problem of data.evaluation '
      f'({", ".join(cfg.evaluation)}); check data.path.'
    )
  dropped = problems.dropped | {'contaminated': sum(contaminated.values())}
  return dataclasses.replace(problems, train=train, dropped=dropped)


def get_template(key, data):
  """The Template of a config.Data or config.SFTData found under the config key `key`.

  Raises ConfigError for an unknown template, also of one of its parts.
  """
  parts = getattr(data, 'parts', {})
  names = {key: data.template} | {f'{key}.parts.{name}': p.template for name, p in parts.items() if p.template}
  for owner, template in names.items():
    config_lib.require(
      template in templates.TEMPLATES, f'{owner}.template is {template!r}; known: {", ".join(templates.TEMPLATES)}.'
    )
  return templates.TEMPLATES[data.template]


def check_kinds(cfg, problems):
  """Checks that a config.Reward has an accuracy reward for every kind of problem, else raises ConfigError.

  Warns of kinds in parts_by_kind that no problem has.

  Args:
    cfg: config.Reward.
    problems: data.Problems.
  """
  kinds = {p.get('kind') if isinstance(p.get('kind'), str) else None for p in problems.train + problems.held_out}
  unscored = sorted(map(str, kinds - set(cfg.parts_by_kind))) if not cfg.accuracy else []
  config_lib.require(
    not unscored,
    f'no reward tells whether problems of kind {", ".join(unscored)} are solved, as reward.accuracy is empty; add '
    f'reward.parts_by_kind.{unscored[0] if unscored else ""} (existing: {", ".join(cfg.parts_by_kind)}).',
  )
  if unused := set(cfg.parts_by_kind) - kinds:
    log.warning(
      'reward.parts_by_kind has %s, but no problem is of that kind; the kinds in the data are: %s.',
      ', '.join(sorted(unused)),
      ', '.join(sorted(map(str, kinds))),
    )


def check_languages(cfg, problems, language):
  """Raises ConfigError for a language whose words the evaluation, or a part of a config.Reward, cannot count.

  Args:
    cfg: config.Reward.
    problems: data.Problems.
    language: the language of problems that name none.
  """
  counted = problems.train if 'language' in map(cfg.function, cfg.names()) else []
  for name in {language, *(str(rewards.language_of(p)) for p in counted + problems.held_out)} - {''}:
    rewards.language_consistency('', name)
