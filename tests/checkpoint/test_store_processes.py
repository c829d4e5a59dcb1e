"""Stores whose process is killed at any moment, and stores on several devices; each in its own processes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

SAVER = """
import os, pathlib, shutil, signal, sys
import jax, jax.numpy as jnp, numpy as np
from r1jax import config
from r1jax.checkpoint import manifest, store

directory, moment, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
make = jax.jit(lambda s: {'w': jax.random.normal(jax.random.key(s), (40_000,)), 'step': s})
s = store.Store(directory, config.Checkpoint(every=1), {})
restored = s.restore(make(jnp.int32(0)))
first = 1
if restored:
  state, step = restored
  want = make(jnp.int32(step))
  assert all(np.array_equal(state[k], want[k]) for k in want), step
  first = step + 1
print('restored', first - 1, flush=True)
for step in range(first, 10**6):
  if step == first + 2:   # there are now steps to fall back on and to delete
    s.wait()
    if moment == 'written':          # all data is written, but no manifest
      manifest.file_digest = die
    elif moment == 'manifest':       # half a manifest
      write = pathlib.Path.write_text
      pathlib.Path.write_text = lambda p, text: (write(p, text[:len(text) // 2]), die())
    elif moment == 'deletion':       # after one file of the step being deleted
      shutil.rmtree = lambda p, **k: (next(f for f in pathlib.Path(p).rglob('*') if f.is_file()).unlink(), die())
    elif moment == 'renamed':
      shutil.rmtree = die
  s.save(step, make(jnp.int32(step)))
  print(f'saving {step}\\n', end='', flush=True)   # in one write, also where output is unbuffered
  if step == last:
    break
s.close()
print('closed', flush=True)
"""

SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from r1jax import config
from r1jax.checkpoint import store

mesh = jax.make_mesh((2, 2), ('a', 'b'))
on = lambda *axes: NamedSharding(mesh, P(*axes))
value = np.arange(64 * 96, dtype=np.float32).reshape(64, 96)
state = {'split': jax.device_put(value, on('a', 'b')), 'copied': jax.device_put(value + 1, on()),
         'half': jax.device_put(value + 2, on(None, 'b')), 'one': jnp.int32(7)}
update = jax.jit(lambda t: jax.tree.map(lambda x: x * 3 + 1, t), donate_argnums=0)
other = {'split': on('b', None), 'copied': on(('a', 'b')), 'half': on(), 'one': on()}
with store.Store(sys.argv[1], config.Checkpoint(every=1), {}) as s:
  s.save(1, state)
  for _ in range(50):
    state = update(state)
  jax.block_until_ready(state)
  abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=other[k]) for k, v in state.items()}
  got, _ = s.restore(abstract)
for k, want in dict(split=value, copied=value + 1, half=value + 2, one=7).items():
  assert got[k].sharding == other[k], (k, got[k].sharding)
  assert np.array_equal(got[k], want), k
print('ok')
"""


def start(code, *args, **env):
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, args)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **env},
  )


def restored_step(process):
  """Reads the step that a saver restored at its start; fails with its stderr if it did not get that far."""
  line = process.stdout.readline()
  if not line.startswith('restored'):
    pytest.fail(process.communicate()[1])
  return int(line.split()[1])


@pytest.mark.slow
def test_kill_at_chosen_moments(tmp_path):
  """Each process checks bit for bit what its killed predecessor left, then is killed at the next moment."""
  expected = 0
  for moment, committed in (('written', 2), ('manifest', 2), ('renamed', 3), ('deletion', 3)):
    process = start(SAVER, tmp_path, moment, 0)
    assert restored_step(process) == expected, moment
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert 'damaged' not in err, err
    expected += committed
  process = start(SAVER, tmp_path, 'never', expected + 3)
  assert restored_step(process) == expected
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0 and out.endswith('closed\n') and 'damaged' not in err, err
  assert sorted(p.name for p in tmp_path.iterdir()) == [f'step_{expected + i:06d}' for i in (2, 3)]


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
  dice = random.Random(0)
  newest = 0
  for _ in range(5):
    process = start(SAVER, tmp_path, 'random', 0)
    first = restored_step(process)
    assert first >= newest
    time.sleep(0.5 + dice.random())
    process.kill()
    out, err = process.communicate()
    assert 'damaged' not in err, err
    saving = [int(line.split()[1]) for line in out.splitlines() if line.startswith('saving')]
    newest = max([first] + [s - 1 for s in saving])  # a save returns only when the one before it is committed
  process = start(SAVER, tmp_path, 'never', newest + 1)
  assert restored_step(process) in (newest, newest + 1)
  process.kill()
  process.communicate()


@pytest.mark.slow
def test_four_devices_save_donate_and_restore_to_other_shardings(tmp_path):
  process = start(SHARDED, tmp_path, JAX_NUM_CPU_DEVICES='4')
  out, err = process.communicate(timeout=60)
  assert out == 'ok\n', err
