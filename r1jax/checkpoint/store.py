"""The checkpoints of one run: saved by orbax in the background, committed atomically, verified before use.

A store is a directory of `step_000020/` directories. Orbax writes each step under a temporary name and renames it once
it is complete. The last file written before that rename is `manifest.json`, with the size and SHA-256 of every file
orbax needs to restore the state, the run's fingerprint and the layout of the arrays. The rename therefore commits data
and checksums together: a process killed at any moment leaves either a complete step or a temporary directory that is
ignored.
"""

import concurrent.futures
import errno
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp

from r1jax import config as config_lib
from r1jax.checkpoint import manifest as manifest_lib
from r1jax.checkpoint import orbax_handler
from r1jax.checkpoint.manifest import MANIFEST as MANIFEST  # part of this module's interface
from r1jax.checkpoint.manifest import difference, layout

STEP = re.compile(r'step_(\d{6,})')
LEFT_OVER = re.compile(r'step_\d{6,}\.(orbax-checkpoint-tmp.*|deleting)')


class StoreError(ValueError):
  """A checkpoint could not be written, or a store has no intact one to read."""


class Store:
  """Saves and restores the state of a run.

  Every process of a multi-host run makes the same calls, on a shared file system. Use it as a context manager, or call
  `close()`: a save still in flight at exit is lost, but never left half-written.
  """

  def __init__(self, directory, cfg, fingerprint):
    """Opens the store in `directory`, creating it if it does not exist.

    Args:
      directory: path.
      cfg: config.Checkpoint; `keep` and `keep_every` (steps) are used here.
      fingerprint: nested dict of JSON values that must be the same when saving and restoring.
    """
    self._directory = pathlib.Path(directory).resolve()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._cfg = cfg
    self._fingerprint = json.loads(json.dumps(fingerprint))  # turns tuples into lists, as in a manifest read back
    self._handler = orbax_handler.Handler()
    self._saver = ocp.AsyncCheckpointer(self._handler)
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending = None
    self._leftovers_removed = False
    orbax_handler.silence_failed_saves()
    self._failure = None  # the StoreError of a failed save, which later saves raise again
    self._damaged = set()  # steps that restore has found damaged

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def save(self, step, state, notes=None):
    """Starts saving `state` as `step`; returns once it is safe to donate or overwrite the state.

    Waits for the previous save. A step that already exists and is intact is kept, so a loop may save its last step
    twice.

    Args:
      step: non-negative int.
      state: pytree of jax.Array and np.ndarray.
      notes: dict of JSON values that are stored with the step; see `notes`.

    Raises:
      StoreError: this save could not start, or an earlier one failed (for example because the disk is full).
    """
    self.wait()
    if self._failure:
      raise self._failure
    path = self._path(step)
    if path.exists() and not manifest_lib.damage(path):
      return
    arrays, _ = _by_name(state)
    contents = {'step': step, 'fingerprint': self._fingerprint, 'arrays': layout(arrays)}
    contents |= {'notes': notes} if notes else {}
    try:
      self._remove_leftovers()
      free, need = shutil.disk_usage(self._directory).free, sum(x.nbytes for x in arrays.values())
      if free < need:  # fail before orbax does so half-way
        raise OSError(f'{os.strerror(errno.ENOSPC)}: the state has {need} bytes')
      # The copy to the host is intended, even if the caller's transfer guard forbids others.
      with jax.transfer_guard('allow'):
        self._saver.save(path, args=orbax_handler.SaveArgs(arrays, contents=contents), force=True)
    except Exception as error:
      raise self._fail(step, error) from error
    self._pending = self._pool.submit(self._finish, step)

  def restore(self, abstract):
    """Reads the newest intact step, with a warning for each damaged step that is skipped.

    Args:
      abstract: pytree of jax.ShapeDtypeStruct (or arrays) with the structure of the state. A leaf's `sharding` says
        where its array goes, None meaning the first local device; an np.ndarray leaf comes back as np.ndarray.

    Returns:
      (state, step), or None if nothing has been saved.

    Raises:
      ConfigError: the step has another fingerprint or other arrays; the message lists the differences.
      StoreError: steps were saved but all are damaged.
    """
    self.wait()
    reasons = []
    for step in reversed(self._steps()):
      path = self._path(step)
      reason = manifest_lib.damage(path, self._check_fingerprint)
      if not reason:
        return self._read(path, abstract), step
      self._damaged.add(step)
      reasons.append(f'step {step}: {reason}')
      orbax_handler.log.warning('checkpoint %s is damaged (%s); trying the previous one.', path, reason)
    if reasons:
      raise StoreError(
        f'no checkpoint in {self._directory} is intact ({"; ".join(reasons)}); '
        'restore the files from a backup, or remove the directory to start over.'
      )
    return None

  def notes(self, step):
    """The notes that were passed to `save` for a step that `restore` has returned; None if there were none."""
    return manifest_lib.read(self._path(step)).get('notes')

  def wait(self):
    """Blocks until the save in flight is committed. Raises StoreError if it failed."""
    if self._pending is not None:
      pending, self._pending = self._pending, None
      pending.result()

  def close(self):
    """Waits for the save in flight, then stops the threads. Raises StoreError if the save in flight failed."""
    try:
      self.wait()
    finally:
      self._pool.shutdown()
      if not self._failure:  # it would raise the same error again
        self._saver.close()

  def _path(self, step):
    return self._directory / f'step_{step:06d}'

  def _steps(self):
    """Committed steps, ascending; damaged ones included."""
    matches = (STEP.fullmatch(p.name) for p in self._directory.iterdir())
    return sorted(int(m[1]) for m in matches if m)

  def _check_fingerprint(self, manifest):
    """Raises ConfigError for the manifest of a checkpoint that was saved under other settings."""
    changes = difference(manifest['fingerprint'], self._fingerprint)
    config_lib.require(
      not changes,
      f'the checkpoint of step {manifest["step"]} in {self._directory} was saved under '
      f'other settings: {"; ".join(changes)}; restore those settings, or use another directory.',
    )

  def _read(self, path, abstract):
    """The state at `path`. Raises ConfigError if it does not have the arrays of `abstract`."""
    leaves, treedef = _by_name(abstract)
    changes = difference(manifest_lib.read(path)['arrays'], layout(leaves))
    more = f' and {len(changes) - 4} more' if len(changes) > 4 else ''
    config_lib.require(
      not changes,
      f'the checkpoint {path} holds other arrays: {"; ".join(changes[:4])}{more}; '
      'restore with the settings it was saved under.',
    )
    arrays = orbax_handler.restore(self._handler, path, leaves)
    return jax.tree.unflatten(treedef, [arrays[name] for name in leaves])

  def _finish(self, step):
    """In the background: waits for orbax to commit `step`, then deletes the steps that are no longer kept."""
    try:
      self._saver.wait_until_finished()
      self._damaged.discard(step)
      self._prune()
    except Exception as error:
      raise self._fail(step, error) from error

  def _fail(self, step, error):
    """Removes what a failed save had written; returns its StoreError, a message of one line."""
    free = shutil.disk_usage(self._directory).free
    for path in self._directory.glob(f'{self._path(step).name}.*'):
      shutil.rmtree(path, ignore_errors=True)
    kept = [s for s in self._steps() if s not in self._damaged and s != step]
    last = f'step {kept[-1]} is the last complete one' if kept else 'none is complete yet'
    self._failure = StoreError(
      f'the checkpoint of step {step} could not be written to {self._directory}, which had {free} bytes free '
      f'({manifest_lib.one_line(error)}); {last}; free some space or fix the cause, then run the same command again.'
    )
    return self._failure

  def _prune(self):
    """Deletes all steps but the newest `keep` intact ones and every `keep_every`-th step."""
    if jax.process_index() != 0:
      return
    intact = [s for s in self._steps() if s not in self._damaged]
    every = self._cfg.keep_every
    kept = set(intact[-self._cfg.keep :]) | {s for s in intact if every and s % every == 0}
    for step in self._steps():
      if step not in kept:
        _delete(self._path(step))
        self._damaged.discard(step)

  def _remove_leftovers(self):
    """Removes the temporary directories of killed or failed processes.

    Done once, and only by a process that saves: one that only reads might delete what another is writing.
    """
    if not self._leftovers_removed and jax.process_index() == 0:
      for path in self._directory.iterdir():
        if LEFT_OVER.fullmatch(path.name):
          shutil.rmtree(path, ignore_errors=True)
    self._leftovers_removed = True


def newest(directory, step=None):
  """(path, manifest) of the newest intact step in a store's directory, or of `step`.

  Raises:
    StoreError: there is no such step, or it is damaged.
  """
  directory, reasons = pathlib.Path(directory).resolve(), []
  steps = sorted((int(m[1]), p) for p in directory.iterdir() if (m := STEP.fullmatch(p.name)))
  if step is not None and step not in dict(steps):
    raise StoreError(f'{directory} has no step {step}; it has {", ".join(str(n) for n, _ in steps) or "none"}.')
  for number, path in reversed(steps):
    if step in (None, number):
      reason = manifest_lib.damage(path)
      if not reason:
        return path, manifest_lib.read(path)
      reasons.append(f'step {number}: {reason}')
  raise StoreError(
    f'no checkpoint in {directory} is intact ({"; ".join(reasons) or "it is empty"}); '
    'pass the directory of a run that has saved one.'
  )


def read_part(path, abstract):
  """Reads only the arrays of a step that `abstract` names, cast to its dtypes.

  Args:
    path: of a step, as returned by `newest`.
    abstract: dict of jax.ShapeDtypeStruct with shardings, a part of the state's structure.

  Returns:
    arrays in the structure of `abstract`.

  Raises:
    ConfigError: the step lacks one of the arrays, or holds it with another shape.
  """
  leaves, treedef = _by_name(abstract)
  stored = manifest_lib.read(path)['arrays']
  shape = lambda text: text[text.index('[') :]  # of 'dtype[shape]'
  expected = {name: shape(text) for name, text in layout(leaves).items()}
  changes = difference({name: shape(stored[name]) for name in expected.keys() & stored.keys()}, expected)
  config_lib.require(not changes, f'the checkpoint {path} holds other arrays: {"; ".join(changes[:4])}.')
  arrays = orbax_handler.restore(orbax_handler.Handler(), path, leaves, partial_restore=True)
  return jax.tree.unflatten(treedef, [arrays[name] for name in leaves])


def _delete(path):
  """Deletes a step. It is renamed first, so that a kill half-way cannot leave a step with files missing."""
  renamed = path.with_name(path.name + '.deleting')
  path.rename(renamed)
  shutil.rmtree(renamed)


def _by_name(tree):
  """({dotted name: leaf}, treedef) of a pytree.

  Orbax sees only this flat dict, so it need not know about None, namedtuples and dataclasses.
  """
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator='.') or 'state': leaf for path, leaf in leaves}
  if len(named) != len(leaves):
    raise ValueError(
      f'the state has {len(leaves)} arrays but only {len(named)} distinct names; rename keys that contain dots.'
    )
  for name, leaf in named.items():
    if not isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
      raise TypeError(f'{name} of the state is a {type(leaf).__name__}; make it an array.')
  return named, treedef
