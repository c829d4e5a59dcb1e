"""A store returns the bits it was given, or falls back to the previous step, or explains in one line why it cannot."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax import config
from r1jax.checkpoint import manifest, store

ROOT = pathlib.Path(__file__).parents[2]
FINGERPRINT = {'model': {'layers': 2, 'widths': (8, 16)}, 'loss': {'name': 'grpo', 'clip_high': 0.2}}


@flax.struct.dataclass
class Inner:
  count: jax.Array
  nothing: None = None


@flax.struct.dataclass
class State:
  params: dict
  opt: optax.OptState
  inner: Inner
  step: jax.Array
  reference: dict | None = None
  label: str = flax.struct.field(pytree_node=False, default='static')


def toy(seed):
  """A state with every kind of leaf and node that a run's state has; the values depend on `seed`."""
  keys = jax.random.split(jax.random.key(seed), 4)
  params = {
    'embed': jax.random.normal(keys[0], (7, 5)),
    'layers': {
      'w': jax.random.normal(keys[1], (3, 4, 6), jnp.bfloat16),
      'bits': jax.random.bits(keys[2], (300,), jnp.uint32),
    },
    'a/b c': jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45]),
  }
  floats = {'embed': params['embed'], 'w': params['layers']['w']}
  opt = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3, mu_dtype=jnp.bfloat16)).init(floats)
  opt = jax.tree.map(lambda x: x + jnp.asarray(seed, x.dtype), opt)
  return State(params, opt, Inner(jnp.int32(-seed)), jnp.int32(seed))


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def bits(tree):
  return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def same(got, want):
  return jax.tree.structure(got) == jax.tree.structure(want) and bits(got) == bits(want)


def open_store(directory, keep=2, keep_every=0, fingerprint=FINGERPRINT):
  return store.Store(directory, config.Checkpoint(every=1, keep=keep, keep_every=keep_every), fingerprint)


def steps(directory):
  return sorted(int(p.name.removeprefix('step_')) for p in pathlib.Path(directory).iterdir())


def filled(directory, *saved):
  with open_store(directory) as s:
    for step in saved:
      s.save(step, toy(step))
  return directory


def test_round_trip_is_bit_exact(tmp_path):
  state = toy(3)
  with open_store(tmp_path) as s:
    assert s.restore(abstract(state)) is None
    s.save(3, state)
    got, step = s.restore(abstract(toy(0)))
  assert step == 3 and same(got, state)
  assert isinstance(got, State) and got.reference is None and got.label == 'static'
  assert got.params['layers']['w'].dtype == jnp.bfloat16


def test_notes_are_kept_with_their_step(tmp_path):
  with open_store(tmp_path) as s:
    s.save(1, toy(1), {'draws': 4, 'begun': {'0': 0}})
    s.save(2, toy(2))
    assert s.restore(abstract(toy(0)))[1] == 2 and s.notes(2) is None
    assert s.notes(1) == {'draws': 4, 'begun': {'0': 0}}


def test_a_new_process_reads_the_newest(tmp_path):
  filled(tmp_path, 20, 40)
  with open_store(tmp_path, fingerprint=json.loads(json.dumps(FINGERPRINT))) as s:  # tuples have become lists
    got, step = s.restore(abstract(toy(0)))
  assert step == 40 and same(got, toy(40))


def test_donation_after_save_does_not_change_the_checkpoint(tmp_path):
  """NumPy views of CPU arrays alias device memory: a save that kept a view without its buffer would be overwritten."""
  update = jax.jit(lambda t: jax.tree.map(lambda x: x * 2 + 1, t), donate_argnums=0)
  state = jax.jit(lambda: {'w': jnp.arange(1 << 20, dtype=jnp.float32), 'n': jnp.arange(1000)})()
  before = bits(state)
  with open_store(tmp_path) as s:
    s.save(0, state)
    for _ in range(50):
      state = update(state)
    jax.block_until_ready(state)
    got, _ = s.restore(abstract(state))
    assert bits(got) == before
    got = update(got)  # a restored state may be donated too
    assert bits(got) != before
    assert bits(s.restore(abstract(state))[0]) == before


def test_numpy_leaves_are_copied_and_come_back_as_numpy(tmp_path):
  state = {'n': np.arange(5, dtype=np.int64)}
  with open_store(tmp_path) as s:
    s.save(0, state)
    state['n'][:] = -1
    got, _ = s.restore(state)
  assert type(got['n']) is np.ndarray and got['n'].dtype == np.int64 and got['n'].tolist() == [0, 1, 2, 3, 4]


def test_saves_and_restores_under_a_transfer_guard(tmp_path):
  state = toy(1)
  with jax.transfer_guard('disallow'), open_store(tmp_path) as s:
    s.save(1, state)
    got, _ = s.restore(abstract(state))
  assert same(got, state)


def test_retention(tmp_path):
  with open_store(tmp_path, keep=2, keep_every=50) as s:
    for step in range(0, 140, 10):
      s.save(step, {'x': jnp.int32(step)})
  assert steps(tmp_path) == [0, 50, 100, 120, 130]


def test_saving_a_step_twice_keeps_the_first(tmp_path):
  with open_store(tmp_path) as s:
    s.save(5, {'x': jnp.int32(1)})
    s.save(5, {'x': jnp.int32(2)})
    assert s.restore({'x': jnp.int32(0)}) == ({'x': 1}, 5)


def truncate(path):
  os.truncate(path, path.stat().st_size - 1)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


DAMAGE = {'truncate': truncate, 'flip': flip, 'delete': pathlib.Path.unlink}


def checked_files(step):
  return [manifest.MANIFEST, *json.loads((step / manifest.MANIFEST).read_text())['files']]


@pytest.mark.parametrize('kind', DAMAGE)
def test_damage_to_any_file_falls_back_one_step_with_a_warning(tmp_path, kind, caplog):
  filled(tmp_path / 'intact', 20, 40)
  names = checked_files(tmp_path / 'intact' / 'step_000040')
  assert any(n.startswith('ocdbt.process_0/d/') for n in names) and '_METADATA' in names
  for i, name in enumerate(names):
    copy = tmp_path / str(i)
    shutil.copytree(tmp_path / 'intact', copy)
    DAMAGE[kind](copy / 'step_000040' / name)
    caplog.clear()
    with open_store(copy) as s:
      got, step = s.restore(abstract(toy(0)))
    assert step == 20 and same(got, toy(20)), name
    assert len(caplog.messages) == 1 and 'step_000040' in caplog.text and name in caplog.text


@pytest.mark.parametrize('name', manifest.UNCHECKED)
def test_files_without_a_checksum_are_not_needed(tmp_path, name):
  filled(tmp_path, 20)
  (tmp_path / 'step_000020' / name).unlink()
  with open_store(tmp_path) as s:
    assert same(s.restore(abstract(toy(0)))[0], toy(20))


def test_a_damaged_step_is_overwritten_and_does_not_count_as_kept(tmp_path):
  filled(tmp_path, 20, 40)
  truncate(tmp_path / 'step_000040' / 'manifest.ocdbt')
  with open_store(tmp_path) as s:
    assert s.restore(abstract(toy(0)))[1] == 20
    s.save(30, toy(30))
    s.wait()
    assert steps(tmp_path) == [20, 30]
  truncate(tmp_path / 'step_000030' / 'manifest.ocdbt')
  with open_store(tmp_path) as s:
    s.save(30, toy(31))
    got, step = s.restore(abstract(toy(0)))
  assert step == 30 and same(got, toy(31))


def test_all_damaged(tmp_path):
  filled(tmp_path, 20, 40)
  flip(tmp_path / 'step_000020' / '_METADATA')
  (tmp_path / 'step_000040' / manifest.MANIFEST).unlink()
  with open_store(tmp_path) as s, pytest.raises(store.StoreError) as error:
    s.restore(abstract(toy(0)))
  message = str(error.value)
  assert 'step 40: manifest.json' in message and 'step 20: _METADATA' in message and '\n' not in message


def test_another_fingerprint_is_refused_with_both_values(tmp_path):
  filled(tmp_path, 20)
  other = {'model': {'layers': 3, 'widths': [8, 16]}, 'loss': {'name': 'dapo', 'clip_high': 0.2, 'buffer': 4}}
  with open_store(tmp_path, fingerprint=other) as s, pytest.raises(config.ConfigError) as error:
    s.restore(abstract(toy(0)))
  message = str(error.value)
  for part in ('model.layers was 2, is 3', "loss.name was 'grpo', is 'dapo'", 'loss.buffer was absent, is 4'):
    assert part in message
  assert 'widths' not in message and 'clip_high' not in message and '\n' not in message


@pytest.mark.parametrize(
  ('other', 'part'),
  [
    ({'w': jnp.zeros((2, 3)), 'n': jnp.int32(0)}, 'w was float32[3, 2], is float32[2, 3]'),
    ({'w': jnp.zeros((3, 2), jnp.bfloat16), 'n': jnp.int32(0)}, 'bfloat16[3, 2]'),
    ({'w': jnp.zeros((3, 2))}, 'n was'),
  ],
)
def test_other_arrays_are_refused(tmp_path, other, part):
  with open_store(tmp_path) as s:
    s.save(1, {'w': jnp.zeros((3, 2)), 'n': jnp.int32(0)})
    with pytest.raises(config.ConfigError) as error:
      s.restore(abstract(other))
  assert part in str(error.value).replace("'", '')


def test_leaves_that_are_not_arrays_are_refused(tmp_path):
  with open_store(tmp_path) as s:
    with pytest.raises(TypeError, match='opt.rate .* float'):
      s.save(0, {'opt': {'rate': 0.5}})
    with pytest.raises(ValueError, match='2 arrays.* 1 distinct names'):
      s.save(0, {'a': {'b': jnp.zeros(1)}, 'a.b': jnp.zeros(1)})


def test_leftovers_of_a_killed_run_are_ignored_and_removed_by_the_next_save(tmp_path):
  filled(tmp_path, 20)
  for name in ('step_000040.orbax-checkpoint-tmp', 'step_000010.deleting'):
    shutil.copytree(tmp_path / 'step_000020', tmp_path / name)
  with open_store(tmp_path) as s:
    assert s.restore(abstract(toy(0)))[1] == 20
    assert len(list(tmp_path.iterdir())) == 3  # a process that only reads removes nothing
    s.save(40, toy(40))
  assert steps(tmp_path) == [20, 40]


DISK_FILLS = """
import gc, pathlib, sys, threading, time
import jax
from r1jax import config
from r1jax.checkpoint import store
folder = pathlib.Path(sys.argv[1])
state = {f'w{i}': jax.random.normal(jax.random.key(i), (25, 1000)) for i in range(40)}
for moment in range(4):
  s = store.Store(folder / f'run{moment}', config.Checkpoint(every=1), {'a': 1})
  def fill():
    while not list((folder / f'run{moment}').glob('step_000001.*')):
      time.sleep(0.0002)
    time.sleep(0.01 * moment)
    try:
      with open(folder / 'filler', 'wb') as file:
        while True:
          file.write(bytes(1 << 16))
    except OSError:
      pass
  thread = threading.Thread(target=fill)
  thread.start()
  try:
    s.save(1, state)
    s.wait()
  except store.StoreError as error:
    print(error)
  s.close()
  del s
  gc.collect()
  thread.join()
  (folder / 'filler').unlink()
"""


def test_a_disk_that_fills_during_a_save_prints_nothing_but_the_error(small_disk):
  process = subprocess.run(
    [sys.executable, '-c', DISK_FILLS, small_disk],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  errors = process.stdout.splitlines()
  assert errors and all('step 1' in line and 'No space left on device' in line for line in errors)
  assert [line for line in process.stderr.splitlines() if line] == []


@pytest.mark.parametrize('room', [16384, 700_000, 1_004_096])  # bytes: none, too little, all but the small files
def test_disk_full(small_disk, room, caplog):
  def noise(seed):
    return {'x': jax.random.bits(jax.random.key(seed), (250_000,), jnp.uint32)}  # 1,000,000 incompressible bytes

  with open_store(small_disk / 'run') as s:
    s.save(1, noise(1))
    s.wait()
  filler = small_disk / 'filler'
  usage = shutil.disk_usage(small_disk)
  filler.write_bytes(bytes(usage.free - room))
  s = open_store(small_disk / 'run')
  with pytest.raises(store.StoreError) as error:
    s.save(2, noise(2))
    s.wait()
  message = str(error.value)
  assert str(small_disk / 'run') in message and ' bytes' in message and 'No space left on device' in message
  assert 'step 2' in message and 'step 1 is the last' in message and '\n' not in message and len(message) < 500
  assert not any(r.exc_info for r in caplog.records)
  with pytest.raises(store.StoreError):
    s.save(3, noise(3))
  got, step = s.restore(noise(0))
  assert step == 1 and same(got, noise(1))
  s.close()
  assert steps(small_disk / 'run') == [1]
  filler.unlink()
  with open_store(small_disk / 'run') as s:
    s.save(2, noise(2))
    got, step = s.restore(noise(0))
  assert step == 2 and same(got, noise(2))


def forge(path, **changes):
  """Changes a manifest but keeps its checksum right."""
  body = json.loads((path / 'manifest.json').read_text())
  del body['sha256']
  body = {k: v for k, v in (body | changes).items() if v is not ...}
  (path / 'manifest.json').write_text(json.dumps(body | {'sha256': manifest.checksum(body)}))


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'files': {'/dev/zero': [0, 'x']}}, '/dev/zero is not a regular file'),
    ({'files': {'../step_000001/manifest.json': [0, 'x']}}, 'manifest.json is not a regular file'),
    ({'files': {'pipe': [0, 'x']}}, 'pipe is not a regular file'),
    ({'files': {'zero': [0, 'x']}}, 'zero is not a regular file'),
    ({'files': [1]}, 'invalid fields'),
    ({'files': {'x': 3}}, 'invalid fields'),
    ({'files': ...}, 'invalid fields'),
    ({'arrays': {'w': 3}}, 'invalid fields'),
    ({'fingerprint': 3}, 'invalid fields'),
    ({'step': None}, 'invalid fields'),
    ({'notes': 3}, 'invalid fields'),
  ],
)
def test_a_forged_manifest_is_damage_in_one_line(tmp_path, change, reason, caplog):
  filled(tmp_path, 1, 2)
  path = tmp_path / 'step_000002'
  os.mkfifo(path / 'pipe')
  (path / 'zero').symlink_to('/dev/zero')
  forge(path, **change)
  with open_store(tmp_path) as s:
    assert s.restore(abstract(toy(0)))[1] == 1
  assert reason in caplog.text
  shutil.rmtree(tmp_path / 'step_000001')
  with pytest.raises(store.StoreError) as error:
    store.newest(tmp_path)
  assert reason in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['[' * 100_000, '[]', '7', 'null', ''])
def test_a_manifest_that_is_not_one_is_damage(tmp_path, text):
  filled(tmp_path, 1)
  (tmp_path / 'step_000001' / 'manifest.json').write_text(text)
  with pytest.raises(store.StoreError, match='manifest.json'):
    store.newest(tmp_path)
  (tmp_path / 'step_000001' / 'manifest.json').unlink()
  os.mkfifo(tmp_path / 'step_000001' / 'manifest.json')
  with pytest.raises(store.StoreError, match='manifest.json is .*not a regular file'):
    store.newest(tmp_path)
