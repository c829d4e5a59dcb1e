"""What a command says of its flags."""

import ast
import shlex

import pytest

from r1jax.runs import cli


@pytest.mark.parametrize(
  'name, flags, parent, inside',
  [
    ('math', ['--config.reward.options.math.where=boxed'], 'reward.options.math', {'where': 'boxed'}),
    (
      'code',
      ['--config.seed=3', '--config.reward.options.code.time_limit=2.5', '--config.reward.options.code.hide=0.5'],
      'reward.options.code',
      {'time_limit': 2.5, 'hide': 0.5},
    ),
    (
      'web',
      ['--config.data.parts.web.only.kind=("a",)', '--config.data.parts.web.path=$x'],
      'data.parts.web',
      {'only': {'kind': ('a',)}, 'path': '$x'},
    ),
  ],
)
def test_an_option_of_what_is_not_there_says_how_to_set_it(name, flags, parent, inside):
  said = cli.missing_key_message(name, ['rl', *flags])
  assert said.startswith(f'the config has no {parent};') and '\n' not in said
  flag, value = shlex.split(said.split('set it whole: ')[1].rstrip('.'))[0].split('=', 1)
  assert flag == f'--config.{parent}' and ast.literal_eval(value) == inside
