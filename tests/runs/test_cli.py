"""Error messages about command-line flags."""

import ast
import shlex

import pytest

from r1jax.runs import cli


@pytest.mark.parametrize(
  ('name', 'flags', 'parent', 'values'),
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
def test_an_override_below_a_missing_key_suggests_setting_the_whole_key(name, flags, parent, values):
  message = cli.missing_key_message(name, ['rl', *flags])
  assert f'has no {parent};' in message and '\n' not in message
  # The suggested override is the last token, possibly quoted as a whole for the shell.
  flag, value = shlex.split(message.rstrip('.').partition(': ')[2])[0].split('=', 1)
  assert flag == f'--config.{parent}' and ast.literal_eval(value) == values
