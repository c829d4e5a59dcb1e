"""The records of a run on disk: metrics.jsonl, tb/ for TensorBoard and samples/step_NNNNNN.jsonl.

Plots and the report are made from metrics.jsonl; tb/ repeats it. Both are flushed at every write, so a killed run loses
at most the line it was writing.
"""

import json
import math
import os
import pathlib
import re
import sys
import time

# tensorboardX imports torch if it is installed, which takes seconds, but works without it.
_torch_hidden = sys.modules.setdefault('torch', None) is None  # pyright: ignore[reportArgumentType]
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # noqa: E402  # pyright: ignore[reportAttributeAccessIssue]

if _torch_hidden:
  del sys.modules['torch']

METRICS = 'metrics.jsonl'
SAMPLES = 'samples'


class RecordError(ValueError):
  """A record file cannot be read; the message names the file and line."""


class Writer:
  """Appends to the records of the run in `workdir`; creates the directory if it does not exist.

  A run that continues in a directory calls `resume` with its first step before it writes.
  """

  def __init__(self, workdir):
    self._dir = pathlib.Path(workdir)
    self._dir.mkdir(parents=True, exist_ok=True)
    self._files = None  # (metrics.jsonl, events) are opened by the first write, so that `resume` can come before
    self._purge = None  # step from which TensorBoard ignores older event files

  def write(self, step, metrics):
    """Appends one line {'step': step, **metrics} and the same as one TensorBoard event.

    Args:
      step: int. A step may be written more than once; readers merge its lines.
      metrics: dict of name -> number (Python, NumPy or a JAX scalar). A value that is not finite becomes null in the
        line and is left out of the event.
    """
    if 'step' in metrics:
      raise ValueError("a metric is named 'step', which is already a key of every line; rename it.")
    lines, events = self._files = self._files or self._open()
    values = {name: float(value) for name, value in metrics.items()}
    lines.write(dumps({'step': int(step), **values}) + '\n')
    lines.flush()
    finite = [Summary.Value(tag=name, simple_value=value) for name, value in values.items() if math.isfinite(value)]
    _add_event(events, step=int(step), summary=Summary(value=finite))

  def samples(self, step, rows):
    """Writes samples/step_NNNNNN.jsonl atomically, replacing an earlier one.

    Args:
      step: int.
      rows: dicts with id, problem, answer, response, reward, parts {name: score}, length (tokens), stop (why the
        response ended) and, if known, correct (bool).

    Returns:
      The path.
    """
    path = _samples_path(self._dir, step)
    path.parent.mkdir(exist_ok=True)
    replace_text(path, ''.join(dumps(row) + '\n' for row in rows))
    return path

  def resume(self, step):
    """Drops the records of a killed run at steps >= `step`: lines and samples; TensorBoard will ignore its events."""
    self.close()
    self._purge = int(step)
    if (self._dir / METRICS).exists():
      kept = [record for record in read_lines(self._dir / METRICS, _check_metrics) if record['step'] < step]
      replace_text(self._dir / METRICS, ''.join(dumps(record) + '\n' for record in kept))
    for written, path in sample_files(self._dir).items():
      if written >= step:
        path.unlink()

  def close(self):
    for file in self._files or ():
      file.close()
    self._files = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _open(self):
    # A partial last line left by a killed run must not swallow the next one.
    path = self._dir / METRICS
    if path.exists() and not path.read_bytes().endswith(b'\n'):
      replace_text(path, ''.join(dumps(record) + '\n' for record in read_lines(path)))
    lines = open(path, 'a', encoding='utf-8', errors='backslashreplace', newline='\n')
    (self._dir / 'tb').mkdir(exist_ok=True)
    # EventsWriter names its file by the second; the suffix distinguishes two starts within one second.
    events = EventsWriter(str(self._dir / 'tb' / 'events'), f'.{time.time_ns()}')
    if self._purge is not None:
      _add_event(events, step=self._purge, session_log=SessionLog(status=SessionLog.START))
    return lines, events


def _add_event(events, **fields):
  events.write_event(Event(wall_time=time.time(), **fields))
  events.flush()


def read_metrics(workdir):
  """Reads metrics.jsonl.

  Returns:
    A list of {'step': int, name: float, or None if it was not finite, ...}, one for each step in ascending order. The
    lines of a step are merged: a later value of a name replaces an earlier one.

  Raises:
    RecordError: the file is missing, or a line is invalid, unless it is a partial last line.
  """
  path = pathlib.Path(workdir) / METRICS
  if not path.exists():
    raise RecordError(f'{path} is missing; pass the working directory of a run.')
  steps = {}
  for record in read_lines(path, _check_metrics):
    steps.setdefault(record['step'], {}).update(record)
  return [steps[step] for step in sorted(steps)]


def read_samples(workdir):
  """Reads every samples file; returns {step: list of rows}, ascending, empty if there are none.

  Raises:
    RecordError: a line does not parse, or lacks a field that `Writer.samples` lists.
  """
  return {step: read_lines(path, _check_sample) for step, path in sample_files(workdir).items()}


def read_object(path):
  """The JSON object in `path`. Raises RecordError if the file holds none, OSError if it cannot be read."""
  try:
    value = _loads(_read(pathlib.Path(path)))
    if not isinstance(value, dict):
      raise ValueError(f'it holds {str(value)[:40]!r}, not an object')
    return value
  except (ValueError, RecursionError) as error:
    raise RecordError(f'{path}: {str(error)[:200]}; correct or delete the file.') from error


def is_number(value):
  """Whether a JSON value is a number, or null, which stands for one that is not finite."""
  return value is None or (isinstance(value, (int, float)) and abs(value) < 1e308)


def _check_metrics(record):
  step = record.get('step')
  if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**53:
    raise ValueError(f"'step' is {str(step)[:40]!r}, not a step" if 'step' in record else "it has no 'step'")
  for name, value in record.items():
    if not is_number(value):
      raise ValueError(f'{name[:40]!r} is {str(value)[:40]!r}, not a number')


def _check_sample(row):
  """Raises ValueError for a row that is not a graded response."""
  texts, numbers = ('problem', 'response', 'stop'), ('reward', 'length')
  for name in ('id', 'answer', 'parts', *texts, *numbers):
    if name not in row:
      raise ValueError(f'it has no {name!r}')
  valid = [isinstance(row[name], str) for name in texts] + [is_number(row[name]) for name in numbers]
  parts = row['parts']
  valid += [isinstance(row['id'], (str, int)), isinstance(parts, dict) and all(map(is_number, parts.values()))]
  for name, ok in zip((*texts, *numbers, 'id', 'parts'), valid, strict=True):
    if not ok:
      raise ValueError(f'{name!r} is {str(row[name])[:40]!r}, which is invalid')


def sample_files(workdir):
  """Returns {step: path} of the samples files, ascending, without temporary ones."""
  paths = {}
  for path in (pathlib.Path(workdir) / SAMPLES).glob('step_*.jsonl'):
    if match := re.fullmatch(r'step_(\d{6,})\.jsonl', path.name):
      paths[int(match[1])] = path
  return dict(sorted(paths.items()))


def replace_text(path, text):
  """Writes `text` to `path` atomically: a crash leaves the old content or the new."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  # A lone surrogate, from an incomplete decode, becomes its JSON escape instead of an error.
  with open(temporary, 'w', encoding='utf-8', errors='backslashreplace', newline='\n') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _samples_path(workdir, step):
  return pathlib.Path(workdir) / SAMPLES / f'step_{int(step):06d}.jsonl'


def dumps(value):
  return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value):
  """Converts NumPy and JAX scalars to Python numbers and non-finite floats to None, within dicts and lists."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if hasattr(value, 'item'):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path):
  """The bytes of a regular file; reading anything else, such as a pipe or a device, might never end."""
  if path.exists() and not path.is_file():
    raise RecordError(f'{path} is not a regular file; remove it.')
  return path.read_bytes()


def _loads(text):
  """json.loads with None for numbers that are not finite."""
  finite = lambda digits: x if math.isfinite(x := float(digits)) else None
  return json.loads(text, parse_constant=lambda _: None, parse_float=finite)


def read_lines(path, check=lambda row: None):
  """Parses a JSON Lines file of objects; drops an unterminated last line that does not parse.

  check: raises ValueError for an object that does not belong into the file.
  """
  lines = _read(path).split(b'\n')
  rows = []
  for number, line in enumerate(lines, 1):
    if not line:
      continue
    try:
      row = _loads(line)
    except (ValueError, RecursionError) as error:
      if number == len(lines):
        break
      raise RecordError(f'{path}, line {number}: {str(error)[:200]}; correct or delete the line.') from error
    try:
      if not isinstance(row, dict):
        raise ValueError(f'it holds {str(row)[:40]!r}, not an object')
      check(row)
    except ValueError as error:
      raise RecordError(f'{path}, line {number}: {error}; correct or delete the line.') from error
    rows.append(row)
  return rows
