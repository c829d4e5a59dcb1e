"""Reads problems from JSON Lines, and says of bad input which line is bad and why."""

import gzip
import json
import os
import re
import zlib

from absl import logging

# GSM8K's mark, with what stands before it and the answer behind it; '##### x' is a heading, and so is one with more
# lines under it.
_MARKED = re.compile(r'(.*\s|)####(?!#)([^\n]*)', re.DOTALL)


class DataError(ValueError):
  """Data that cannot be used; the message is one line: what, the numbers, what to do."""


def read_jsonl(path, take=None):
  """Reads the problems of a JSON Lines file, gzip-compressed where the name ends in .gz.

  Every line is an object with 'problem' (or 'question') and 'answer', each a non-empty string or a
  number; 'id' is made from the file's name and the line's number where absent; other fields are
  kept. Blank lines are skipped. Malformed lines among good ones are dropped, counted, and
  reported once.

  Args:
    path: file.
    take: function from a line's object and an id for it, if it has none, to its problem; or to None, which leaves it
      out, uncounted. Raises ValueError saying what is wrong. None: `normalise`.

  Returns:
    (problems, malformed): a list of dicts with at least the strings 'id', 'problem' and 'answer',
    and the number of malformed lines.

  Raises:
    DataError: no such file, a folder, unreadable or corrupt, empty, or without one good line.
  """
  problems, malformed, left_out, first = [], 0, 0, ''
  for number, line in _lines(path):
    try:
      problem = (take or normalise)(_parse(line), f'{os.path.basename(path)}:{number}')
      left_out += problem is None
      problems += [] if problem is None else [problem]
    except (ValueError, RecursionError) as e:  # RecursionError: absurdly nested JSON
      malformed += 1
      first = first or f'line {number}: {_reason(e)}'
  if not problems and left_out and not malformed:
    raise DataError(
      f"none of the {left_out} rows of {path} has the values that the mixture's part takes; check "
      'its filter and eval_filter.'
    )
  if not problems and not malformed:
    raise DataError(f'{path} is empty: it holds no problem; pass a file with one JSON object a line.')
  if not problems:
    raise DataError(
      f'none of the {malformed} lines of {path} holds a problem; the first bad one is {first}; '
      "each line must be a JSON object with 'problem' and 'answer'."
    )
  if malformed:
    logging.warning(
      '%s: dropped %d malformed of %d lines; the first is %s.', path, malformed, malformed + len(problems), first
    )
  return problems, malformed


def read_rows(path, check):
  """The objects of a JSON Lines file, of which none may be malformed.

  Args:
    path: file, gzip-compressed where the name ends in .gz.
    check: row -> None; raises ValueError saying what is wrong with it.

  Raises:
    DataError: no such file or unreadable; a line that is not an object or fails the check, by its number.
  """
  return [row for _, row in stream_rows(path, check)]


def stream_rows(path, check):
  """Yields (number from 1, row) of `read_rows`, one line at a time."""
  for number, line in _lines(path):
    try:
      row = _parse(line)
      if not isinstance(row, dict):
        raise ValueError(f'a JSON {type(row).__name__}, not an object')
      check(row)
    except (ValueError, RecursionError) as e:
      raise DataError(f'{path}, line {number}: {_reason(e)}; mend or remove the line.') from e
    yield number, row


def raw_lines(path):
  """The lines of a JSON Lines file that are not blank, as (number from 1, bytes), one at a time; see `parse`.

  Raises DataError: no such file, or unreadable.
  """
  return _lines(path)


def parse(line):
  """The object of a line. Raises ValueError saying in a few words what is wrong with it."""
  try:
    row = _parse(line)
  except (ValueError, RecursionError) as e:
    raise ValueError(_reason(e)) from e
  if not isinstance(row, dict):
    raise ValueError(f'a JSON {type(row).__name__}, not an object')
  return row


def normalise(row, default_id, answers=True):
  """Turns one record into a problem: a dict with the strings 'id', 'problem', 'answer', and its other fields.

  Without `answers` a row needs none; its 'answer' is then ''.

  GSM8K's own files write 'question' for the problem and end a worked solution with '#### 1,234' for
  the answer: these become 'problem', 'solution' and '1234'. The mark begins the text or stands behind white space, and
  the answer is all that follows it, on its line. Raises ValueError naming what is wrong.
  """
  if not isinstance(row, dict):
    raise ValueError(f'a JSON {type(row).__name__}, not an object')
  row = dict(row) if answers else {'answer': None} | row
  if 'problem' not in row and 'question' in row:
    row['problem'] = row.pop('question')
  for field in ('problem', 'answer'):
    row[field] = _text(row, field) if answers or field == 'problem' or row[field] else ''
  if marked := _MARKED.fullmatch(row['answer'].rstrip()):
    row.update(
      ({'solution': marked[1].rstrip()} if marked[1].strip() else {})
      | {'answer': re.sub(r'(?<=\d),(?=\d{3})', '', marked[2]).strip()}
    )
    row['answer'] = _text(row, 'answer')  # something must follow the mark
  row['id'] = default_id if row.get('id') is None else _text(row, 'id')
  return row


def text_key(problem):
  """The problem's text with white space collapsed: what 'the same problem' means for a split."""
  return ' '.join(problem['problem'].split())


def _text(row, field):
  value = row.get(field)
  if value is None:
    raise ValueError(f"no field '{field}'")
  if isinstance(value, bool) or not isinstance(value, (str, int, float)):
    raise ValueError(f"field '{field}' is a {type(value).__name__}, not a string or a number")
  text = str(value)
  if not text.strip():
    raise ValueError(f"field '{field}' is empty")
  return text


def _parse(line):
  row = json.loads(line.decode('utf-8'))
  # Python reads NaN, 1e999 and lone surrogate escapes, which no later file or tokenizer could take.
  json.dumps(row, ensure_ascii=False, allow_nan=False).encode('utf-8')
  return row


def _reason(error):
  if isinstance(error, UnicodeDecodeError):
    return f'not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})'
  if isinstance(error, UnicodeEncodeError):
    return 'holds a lone surrogate, which UTF-8 cannot hold'
  if isinstance(error, json.JSONDecodeError):
    return f'not JSON ({error.msg} at column {error.colno})'
  if isinstance(error, RecursionError):
    return 'not JSON (nested too deeply)'
  return str(error)


def _lines(path):
  """Yields (number from 1, bytes) of the lines that are not blank; raises DataError."""
  if os.path.isdir(path):
    raise DataError(f'{path} is a folder; pass the JSON Lines file inside it.')
  try:
    with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as f:
      for number, line in enumerate(f, 1):
        if number == 1:
          line = line.removeprefix(b'\xef\xbb\xbf')  # byte order mark
        if line.strip():
          yield number, line
  except FileNotFoundError:
    raise DataError(f'there is no file {path}; check the path.') from None
  except (gzip.BadGzipFile, EOFError, zlib.error) as e:
    raise DataError(f'{path} is not a whole gzip file ({e}); fetch or compress it again.') from None
  except OSError as e:
    raise DataError(f'{path} cannot be read ({e.strerror}); check its permissions.') from None
