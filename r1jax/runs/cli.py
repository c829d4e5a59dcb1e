"""A command's flags, its main, and errors that end it with one line."""

import ast
import contextlib
import errno
import functools
import shlex
import sys

from absl import app, flags
import jax
from ml_collections import config_flags

from r1jax import checkpoint, data, parallel, tokenizers
from r1jax import config as config_lib
from r1jax.metrics.writer import RecordError
from r1jax.parallel import interrupt
from r1jax.rewards import neural
from r1jax.rewards.workers import pool
from r1jax.training.accumulate import NonFiniteError

# Errors whose message is written for the person who typed the command; anything else is a defect of ours.
SAID_IN_ONE_LINE = (
  config_lib.ConfigError,
  data.DataError,
  checkpoint.ModelDirError,
  checkpoint.StoreError,
  tokenizers.TokenizerError,
  NonFiniteError,
  RecordError,
  pool.GradeError,
  neural.endpoint.EndpointError,
)


def main(run, config_class, workdir_help, report=lambda summary, workdir: ''):
  """Runs a command with the flags --config and --workdir.

  Args:
    run: function (config, workdir) -> summary. config_class: of the config.
    workdir_help: what the folder is for.
    report: function (summary, workdir) -> what to print; '' for nothing.
  """
  flags.disclaim_key_flags()  # they are the calling module's, for --help
  # Unlocked, so that a mistyped --config.KEY reaches `convert`, which names the nearest known one.
  config = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  workdir = flags.DEFINE_string('workdir', None, workdir_help, required=True)

  def call(_):
    with errors_in_one_line():
      summary = run(config_lib.convert(config.value, config_class), workdir.value)
    if parallel.is_primary() and (text := report(summary, workdir.value)):
      print(text)

  app.run(call, flags_parser=parse_flags)


def parse_flags(argv):
  """For app.run's flags_parser: a mistyped flag, variant or config file ends the command with one line."""
  try:
    rest = flags.FLAGS(argv)
    list(flags.FLAGS.config or ())  # a config file that cannot be read says so when it is used
    return rest
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    name, *near = str(error.args[0] if error.args else '').strip().splitlines() or ['']
    if isinstance(error, KeyError) and (said := missing_key_message(name.strip('"\''), argv)):
      sys.exit(' '.join(['error:', said, *(f'({line})' for line in near)]))
    # ml_collections quotes a whole traceback; its last line is the message.
    sys.exit('error: ' + str(error).strip().splitlines()[-1].strip().removeprefix('ValueError: '))


def missing_key_message(name, argv):
  """What to say of overrides as --config.a.b.c=d where a.b is not there; '' without such. name: b."""
  parent, inside = '', {}
  for text in argv[1:]:
    flag, _, value = text.partition('=')
    parts = flag.lstrip('-').split('.')
    if parts[0] == 'config' and name in parts[1:-1]:
      at = parts.index(name, 1) + 1
      parent = parent or '.'.join(parts[:at])
      if '.'.join(parts[:at]) == parent:
        of = functools.reduce(lambda found, key: found.setdefault(key, {}), parts[at:-1], inside)
        of[parts[-1]] = literal(value)
  if not parent:
    return ''
  plain = not set('"$`\\\n') & set(str(inside))
  whole = f'--{parent}="{inside}"' if plain else shlex.quote(f'--{parent}={inside}')
  return (
    f'the config has no {parent.removeprefix("config.")}; mend the name, or where it may be new, as an '
    f'option of a reward, set it whole: {whole}.'
  )


def literal(text):
  """The value of a flag: a Python literal, or else the text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def out_of_memory_message(error):
  """What to say of an error of the runtime that means so; '' for any other."""
  if 'RESOURCE_EXHAUSTED' not in str(error):
    return ''
  return (
    f'a device is out of memory: {str(error).splitlines()[0]:.300} Nothing saved is lost. Work on less at a time '
    '(train.microbatch, or microbatch; rollout.chunk), recompute more (model.remat=full) or use more devices; '
    '`python -m experiments.plan` with the same --config says what each program of a run needs, beside what.'
  )


@contextlib.contextmanager
def errors_in_one_line():
  """Ends the process with one line and code 1 for an error that the person who typed the command can mend."""
  try:
    yield
  except interrupt.Interrupted as error:
    if parallel.is_primary():
      print(error, file=sys.stderr)
    sys.exit(error.code)
  except SAID_IN_ONE_LINE as error:
    sys.exit(f'error: {error}')
  except jax.errors.JaxRuntimeError as error:
    if not out_of_memory_message(error):
      raise
    sys.exit(f'error: {out_of_memory_message(error)}')
  except OSError as error:
    if error.filename is None and error.errno != errno.ENOSPC:
      raise  # no file of anybody's: a defect
    sys.exit(f'error: {error}; make room or mend the path, then run the same command again.')
