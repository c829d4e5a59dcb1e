"""Problems of a config, and whether its rewards can score them."""

import dataclasses
import logging

from r1jax import config as config_lib
from r1jax import data, rewards, templates
from r1jax.recipes import dataset
from r1jax.rewards import needs

log = logging.getLogger('r1jax')


def load_problems(cfg, reward):
  """data.Problems of a config.Data, of which the rewards of a config.Reward can score every one.

  Others are malformed; training problems that hold one of cfg.evaluation are dropped, counted and said.
  """
  problems = data.load(cfg, needs.checker(reward))
  check_kinds(reward, problems)
  if not cfg.evaluation:
    return problems
  train, found = dataset.decontaminated(problems.train, cfg.evaluation)
  if found:
    log.warning(
      'dropped %d of %d training problems near ones of data.evaluation: %s.',
      sum(found.values()),
      len(problems.train),
      ', '.join(f'{count} of {entry}' for entry, count in found.items()),
    )
  if not train:
    raise data.DataError(
      f'all {len(problems.train)} training problems are near ones of data.evaluation '
      f'({", ".join(cfg.evaluation)}); check data.path.'
    )
  dropped = problems.dropped | {'contaminated': sum(found.values())}
  return dataclasses.replace(problems, train=train, dropped=dropped)


def template_of(name, data):
  """The Template that a config.Data or config.SFTData, by the name of `name`, asks for. Raises ConfigError."""
  parts = {f'{name}.parts.{part}': of.template for part, of in getattr(data, 'parts', {}).items() if of.template}
  for at, template in ({name: data.template} | parts).items():
    config_lib.require(
      template in templates.TEMPLATES, f'{at}.template is {template!r}; known: {", ".join(templates.TEMPLATES)}.'
    )
  return templates.TEMPLATES[data.template]


def check_kinds(cfg, problems):
  """Raises ConfigError where no part of a config.Reward can tell a right answer of some kind of problem.

  Warns of kinds in parts_by_kind that no problem has. problems: data.Problems.
  """
  kinds = {p.get('kind') if isinstance(p.get('kind'), str) else None for p in problems.train + problems.held_out}
  lost = sorted(map(str, kinds - set(cfg.parts_by_kind))) if not cfg.accuracy else []
  config_lib.require(
    not lost,
    f'no reward says whether problems of kind {", ".join(lost)} are solved: reward.accuracy is empty; add '
    f'reward.parts_by_kind.{lost[0] if lost else ""} (there are: {", ".join(cfg.parts_by_kind)}).',
  )
  if idle := set(cfg.parts_by_kind) - kinds:
    log.warning(
      'reward.parts_by_kind has %s, but no problem is of such a kind; there are: %s.',
      ', '.join(sorted(idle)),
      ', '.join(sorted(map(str, kinds))),
    )


def check_languages(cfg, problems, language):
  """Raises ConfigError for a language whose words the evaluation, or a part of a config.Reward, could not count.

  problems: data.Problems. language: of those that name none.
  """
  counted = problems.train if 'language' in map(cfg.function, cfg.names()) else []
  for name in {language, *(str(rewards.language_of(p)) for p in counted + problems.held_out)} - {''}:
    rewards.language_consistency('', name)
