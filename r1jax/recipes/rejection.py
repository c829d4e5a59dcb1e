"""Rejection sampling: of many samples, those to learn from (DeepSeek-R1, stage 3).

Rows stream through once, in order; what is kept of them for later ones lies in tables on disk. After every chunk of
lines the kept rows and all that is known of the pass are saved together, so a pass killed at any moment goes on from
its last chunk and ends with the same bytes.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import sqlite3

from r1jax.data import reader
from r1jax.recipes import duplicates, filters

ROWS = 'rows.jsonl'  # in the folder of a pass
EXAMPLES = 5  # of each reason, shown in the summary
_CACHE = 16  # MiB of the tables that are held in memory
_AHEAD = 2  # chunks that are looked at before the ones before them are kept


class Pass:
  """One pass over sources, in a folder of its own.

  Args:
    folder: made if absent; ROWS in it becomes what is kept.
    cfg: config.Curate.
    sources: list of filters.Source.
    index: contamination.Index.
    judge: function from samples to scores; over 0.5 passes.
  """

  def __init__(self, folder, cfg, sources, index, judge=None):
    self.folder, self.cfg, self.sources, self.index, self.judge = pathlib.Path(folder), cfg, sources, index, judge
    self.folder.mkdir(parents=True, exist_ok=True)
    self.rows = self.folder / ROWS
    self._db = sqlite3.connect(self.folder / 'seen.sqlite', isolation_level=None)
    for pragma in ('journal_mode = WAL', 'synchronous = NORMAL', f'cache_size = -{_CACHE << 10}'):
      self._db.execute(f'PRAGMA {pragma}')
    for table in (
      'state (name TEXT PRIMARY KEY, value TEXT)',
      'problems (digest BLOB PRIMARY KEY, kept INTEGER) WITHOUT ROWID',
    ):
      self._db.execute(f'CREATE TABLE IF NOT EXISTS {table}')
    self._seen = duplicates.Seen(self._db, cfg.filters.near)
    row = self._db.execute("SELECT value FROM state WHERE name = 'now'").fetchone()
    # Where the pass is: source, lines read of it, bytes of rows; whether it is at the end; and what was counted.
    self.now = (
      json.loads(row[0])
      if row
      else {
        'source': 0,
        'line': 0,
        'bytes': 0,
        'rows': 0,
        'read': 0,
        'done': False,
        'sources': {},
        'kinds': {},
        'contaminated': {},
        'examples': {},
      }
    )

  def run(self, report=lambda now: None):
    """Goes on to the end. report: called with `now` after each chunk. Returns it."""
    if self.now['done']:
      return self.now
    with open(self.rows, 'ab') as self._file, contextlib.closing(_Examiners(self.cfg, self.index)) as look:
      self._file.truncate(self.now['bytes'])
      while self.now['source'] < len(self.sources):
        source = self.sources[self.now['source']]
        chunks = look(source, _chunks(source, self.now['line'], self.cfg.chunk))
        while not self._full(source) and (chunk := next(chunks, None)):
          self._keep(source, *chunk)
          report(self.now)
        with self._saved():
          self.now |= {'source': self.now['source'] + 1, 'line': 0}
      with self._saved():
        self.now['done'] = True
    return self.now

  def close(self):
    self._db.close()

  def _keep(self, source, count, found):
    """Decides on a chunk of Found, of `count` lines, and saves."""
    judged = [f for f in found if f.item is not None]
    scores = iter(self.judge([f.item for f in judged]) if judged else ())
    with self._saved():
      self.now['line'] += count
      self.now['read'] += count
      for f in found:
        passed = f.item is None or next(scores) > 0.5
        self._one(source, f, f.reason or ('' if passed else 'judge') or self._seen.find(f.text, f.both))

  def _one(self, source, found, reason):
    counted = self.now['sources'].setdefault(source.name, {'kept': 0, 'dropped': {}})
    reason = reason or self._enough(source, found)
    if reason:
      counted['dropped'][reason] = counted['dropped'].get(reason, 0) + 1
      if found.held:
        self.now['contaminated'][found.held] = self.now['contaminated'].get(found.held, 0) + 1
      examples = self.now['examples'].setdefault(reason, [])
      if len(examples) < EXAMPLES:
        examples.append(found.detail)
      return
    row, kind = found.row, found.row.get('kind', 'not stated')
    self._seen.add(found.text, found.both, self.now['rows'])
    data = json.dumps(row, ensure_ascii=False).encode() + b'\n'
    self._file.write(data)
    self.now['rows'] += 1
    self.now['bytes'] += len(data)
    counted['kept'] += 1
    of_kind = self.now['kinds'].setdefault(kind, {'rows': 0, 'with_chain': 0, 'characters': 0, 'languages': {}})
    of_kind['rows'] += 1
    of_kind['with_chain'] += found.chain
    of_kind['characters'] += len(row['response'])
    of_kind['languages'] = dict(
      collections.Counter(of_kind['languages']) + collections.Counter([row.get('language', 'not stated')])
    )

  def _enough(self, source, found):
    """'enough' where the problem or the source has its rows already, else ''; a sample to be kept is counted."""
    if self._full(source):
      return 'enough'
    if not source.sampled:
      return ''
    query = 'INSERT INTO problems VALUES (?, 1) ON CONFLICT DO UPDATE SET kept = kept + 1 WHERE kept < ?'
    return '' if self._db.execute(query, (found.problem, self.cfg.per_prompt)).rowcount else 'enough'

  def _full(self, source):
    return bool(source.limit) and self.now['sources'].get(source.name, {'kept': 0})['kept'] >= source.limit

  @contextlib.contextmanager
  def _saved(self):
    """What is done within counts all together or not at all."""
    self._db.execute('BEGIN')
    yield
    self._file.flush()
    os.fsync(self._file.fileno())
    self._db.execute("INSERT OR REPLACE INTO state VALUES ('now', ?)", (json.dumps(self.now),))
    self._db.execute('COMMIT')


def _chunks(source, done, size):
  """Lists of (number from 1, bytes) of a source's lines from the one after `done` on."""
  lines = (line for path in source.paths for _, line in reader.raw_lines(path))
  lines = itertools.islice(enumerate(lines, 1), done, None)
  return iter(lambda: list(itertools.islice(lines, size)), [])


class _Examiners:
  """A function (source, chunks) -> (lines, list of Found) for each chunk in order, by one process or several."""

  def __init__(self, cfg, index):
    self._count, setting = cfg.workers, (cfg.filters, cfg.judged, index)
    self._examine = filters.Examiner(*setting)
    # Spawned: a fork would copy the threads' locks of whatever else this process runs.
    self._pool = (
      concurrent.futures.ProcessPoolExecutor(cfg.workers, multiprocessing.get_context('spawn'), _begin, setting)
      if cfg.workers > 1
      else None
    )

  def __call__(self, source, chunks):
    if not self._pool:
      for chunk in chunks:
        yield len(chunk), [self._examine(source, *line) for line in chunk]
      return
    ahead = collections.deque()
    for chunk in chunks:
      parts = [
        chunk[i : i + -(-len(chunk) // self._count)] for i in range(0, len(chunk), -(-len(chunk) // self._count))
      ]
      ahead.append((len(chunk), [self._pool.submit(_look, source, part) for part in parts]))
      if len(ahead) > _AHEAD:
        yield _result(ahead.popleft())
    yield from map(_result, ahead)

  def close(self):
    if self._pool:
      self._pool.shutdown(cancel_futures=True)


def _result(waiting):
  count, futures = waiting
  return count, [found for future in futures for found in future.result()]


def _begin(*setting):
  global _EXAMINER  # of a worker process
  _EXAMINER = filters.Examiner(*setting)


def _look(source, lines):
  return [_EXAMINER(source, *line) for line in lines]
