"""Command-line flags, the main function of a command, and one-line error messages."""

import ast
import contextlib
import errno
import functools
import shlex
import sys

from absl import app, flags
import jax
from ml_collections import config_flags

from r1jax import checkpoint, data, parallel, sampling, tokenizers
from r1jax import config as config_lib
from r1jax.metrics.writer import RecordError
from r1jax.parallel import interrupt
from r1jax.rewards import neural
from r1jax.rewards.workers import pool
from r1jax.training.finite import NonFiniteError

# Errors whose message is meant for the user; any other exception is a bug and keeps its traceback.
USER_ERRORS = (
  config_lib.ConfigError,
  data.DataError,
  checkpoint.ModelDirError,
  checkpoint.StoreError,
  tokenizers.TokenizerError,
  NonFiniteError,
  sampling.SamplingError,
  RecordError,
  pool.GradeError,
  neural.endpoint.EndpointError,
)


def main(run, settings, workdir_help, report=lambda summary, workdir: ''):
  """Runs a command with the flags --config and --workdir.

  Args:
    run: function (config, workdir) -> summary.
    settings: dataclass that the config file is converted to, or function that converts it.
    workdir_help: help text of --workdir.
    report: function (summary, workdir) -> text to print at the end; '' prints nothing.
  """
  flags.disclaim_key_flags()  # so that --help lists them under the calling module
  # Not locked, so that a mistyped --config.KEY reaches `convert`, which suggests the nearest known key.
  config = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  workdir = flags.DEFINE_string('workdir', None, workdir_help, required=True)

  convert = functools.partial(config_lib.convert, cls=settings) if isinstance(settings, type) else settings

  def call(_):
    with errors_in_one_line():
      summary = run(convert(config.value), workdir.value)
    if parallel.is_primary() and (text := report(summary, workdir.value)):
      print(text)

  app.run(call, flags_parser=parse_flags)


def parse_flags(argv):
  """A flags_parser for app.run that exits with a one-line error for a mistyped flag, variant or config file."""
  try:
    positional = flags.FLAGS(argv)
    list(flags.FLAGS.config or ())  # an unreadable config file raises only when it is first used
    return positional
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    name, *suggestions = str(error.args[0] if error.args else '').strip().splitlines() or ['']
    if isinstance(error, KeyError) and (message := missing_key_message(name.strip('"\''), argv)):
      sys.exit(' '.join(['error:', message, *(f'({line})' for line in suggestions)]))
    # ml_collections puts a whole traceback into the message; only its last line is useful.
    sys.exit('error: ' + str(error).strip().splitlines()[-1].strip().removeprefix('ValueError: '))


def missing_key_message(name, argv):
  """The error message for overrides like --config.a.b.c=d where the config has no key a.b; '' if there are none.

  Args:
    name: the missing key, here 'b'.
    argv: the command line, program name first.
  """
  parent, values = '', {}
  for arg in argv[1:]:
    flag, _, value = arg.partition('=')
    keys = flag.lstrip('-').split('.')
    if keys[0] == 'config' and name in keys[1:-1]:
      depth = keys.index(name, 1) + 1
      parent = parent or '.'.join(keys[:depth])
      if '.'.join(keys[:depth]) == parent:
        inner = functools.reduce(lambda tree, key: tree.setdefault(key, {}), keys[depth:-1], values)
        inner[keys[-1]] = literal(value)
  if not parent:
    return ''
  needs_no_quoting = not set('"$`\\\n') & set(str(values))
  override = f'--{parent}="{values}"' if needs_no_quoting else shlex.quote(f'--{parent}={values}')
  return (
    f'the config has no {parent.removeprefix("config.")}; correct the name. If the key may be new, such as an '
    f'option of a reward, set all of it at once: {override}.'
  )


def literal(text):
  """The value of a flag: a Python literal if it parses as one, else the text itself."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def out_of_memory_message(error):
  """The message for a JAX runtime error that means a device ran out of memory; '' for any other error."""
  if 'RESOURCE_EXHAUSTED' not in str(error):
    return ''
  return (
    f'a device is out of memory: {str(error).splitlines()[0]:.300} Saved checkpoints are intact. Use smaller batches '
    '(train.microbatch or microbatch; rollout.chunk), recompute more (model.remat=full) or use more devices; '
    '`python -m experiments.plan` with the same --config lists the memory that each program of a run needs.'
  )


@contextlib.contextmanager
def errors_in_one_line():
  """Within, an error that the user can fix ends the process with a one-line message and exit status 1."""
  try:
    yield
  except interrupt.Interrupted as error:
    if parallel.is_primary():
      print(error, file=sys.stderr)
    sys.exit(error.code)
  except USER_ERRORS as error:
    sys.exit(f'error: {error}')
  except jax.errors.JaxRuntimeError as error:
    if not out_of_memory_message(error):
      raise
    sys.exit(f'error: {out_of_memory_message(error)}')
  except OSError as error:
    if error.filename is None and error.errno != errno.ENOSPC:
      raise  # not about a file of the user: a bug
    sys.exit(f'error: {error}; free disk space or correct the path, then run the same command again.')
