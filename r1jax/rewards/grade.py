"""Grades rows of JSON Lines with one reward, from the command line.

  python -m r1jax.rewards.grade math < pairs.jsonl     fields gold, pred (a bare answer, or a whole response)
  python -m r1jax.rewards.grade code < items.jsonl     fields program or response; test and entry_point, asserts, or io
  python -m r1jax.rewards.grade NAME < items.jsonl     any other reward: the fields that it reads

Prints the verdict of each row as a JSON line, in order: the score and, if the reward can explain it, a reason and more.
A row that the reward cannot grade (for example, gold is a list) scores 0 with a reason that names its line; the other
rows are still graded, and the command exits with status 1. A line that is not a JSON object, or lacks gold or pred,
stops the command at once.
"""

import argparse
import collections
import json
import sys

from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards.printable import printable
from r1jax.rewards.workers import pool

# Fields of a row that have another name in an item, and the options to use on the command line.
FIELDS = {'math': {'gold': 'answer', 'pred': 'response'}}
OPTIONS = {'math': {'bare': True}}
TIMEOUT = {'code': 120.0}  # seconds for one row; each test has its own limit besides


def read(lines, names):
  """Yields (line number, item) of each line of JSON.

  Args:
    lines: iterable of strings; blank ones are skipped.
    names: name of a required field -> its name in the item.

  Raises:
    ConfigError: a line that is not a JSON object or lacks a required field; the message gives its number.
  """
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ConfigError(f'line {number} is not JSON: {error}.') from None
    missing = [name for name in names if not isinstance(row, dict) or name not in row]
    if not isinstance(row, dict) or missing:
      raise ConfigError(
        f'line {number} must be an object with {", ".join(names) or "the fields of an item"}'
        + (f'; it has no {", ".join(missing)}.' if missing else '.')
      )
    # gold is the answer even if the row also has a field called 'answer'.
    yield number, {'prompt': '', **row, **{new: row[old] for old, new in names.items()}}


def grade(name, lines, out, options, workers, timeout):
  """Writes a verdict for each line as soon as it is known, with a bounded number of rows in memory.

  Returns:
    list of messages, one for each row that could not be graded.

  Raises:
    ConfigError: as in `read`.
    pool.GradeError: the workers cannot continue.
  """
  options = OPTIONS.get(name, {}) | options
  with pool.Grader({name: options}, workers, timeout) as grader:
    pending, failed = collections.deque(), []
    try:
      for number, item in read(lines, FIELDS.get(name, {})):
        pending.append((number, grader.submit([item])))  # one by one, so that a bad row fails alone
        if len(pending) > 16 * workers:
          failed += _write(name, out, *pending.popleft())
    finally:
      while pending:
        failed += _write(name, out, *pending.popleft())
  return failed


def _write(name, out, number, future):
  """Writes the verdict of a line. Returns [message] if it could not be graded, else []."""
  failed = []
  try:
    (verdict,) = future.result().verdicts[name]
  except pool.ItemError as error:
    failed = [f'line {number} cannot be graded: {error.message}']
    verdict = {'score': 0.0, 'reason': failed[0]}
  out.write(printable(json.dumps(verdict, ensure_ascii=False)) + '\n')
  out.flush()
  return failed


def main():
  parser = argparse.ArgumentParser(
    prog='python -m r1jax.rewards.grade', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('reward', help=f'one of {", ".join(rewards.REWARDS)}, or module:function')
  parser.add_argument(
    '--options', type=json.loads, default={}, help='options of the reward as JSON, such as \'{"where": "tags"}\''
  )
  parser.add_argument('--workers', type=int, default=2, help='number of worker processes')
  parser.add_argument('--timeout', type=float, help='seconds of processor time for one row, after which it scores 0')
  args = parser.parse_args()
  if not isinstance(args.options, dict):
    sys.exit(f'error: --options is {args.options!r}; it must be an object, such as {{"where": "tags"}}.')
  timeout = TIMEOUT.get(args.reward, 5.0) if args.timeout is None else args.timeout
  try:
    with open(0, encoding='utf-8-sig', errors='replace') as lines:
      sys.stdout.reconfigure(encoding='utf-8', errors='replace')  # pyright: ignore[reportAttributeAccessIssue]
      failed = grade(args.reward, lines, sys.stdout, args.options, args.workers, timeout)
      if failed:
        sys.exit(f'error: {len(failed)} rows could not be graded and scored 0; the first: {failed[0]}')
  except (ConfigError, pool.GradeError) as error:
    sys.exit(f'error: {error}')
  except BrokenPipeError:  # the reader has closed the pipe, as in `| head`
    sys.stderr.close()
  except OSError as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit(130)


if __name__ == '__main__':
  main()
