"""Runs with low-rank adapters: killed and resumed, opened as models, exported, and begun from PEFT's files."""

import json

import numpy as np
import pytest

from experiments import convert
from r1jax import checkpoint

LORA = {'lora.rank': 4, 'lora.alpha': 8.0, 'optimizer.learning_rate': 1e-2}
RL = LORA | {'train.reference_refresh': 0, 'loss.kl_coef': 0.05, 'train.minibatches': 2}
SFT = LORA | {
  'epochs': 0.1,
  'batch': 4,
  'data.max_length': 256,
  'eval.every': 2,
  'eval.problems': 2,
  'eval.final_problems': 2,
  'eval.samples': 2,
  'eval.final_samples': 2,
  'eval.batch': 2,
  'eval.max_response': 8,
  'checkpoint.every': 2,
}


def lines(workdir, count):
  path = workdir / 'metrics.jsonl'
  return lambda: path.exists() and path.read_bytes().count(b'\n') >= count


@pytest.fixture(scope='module')
def trained(runs, tmp_path_factory):
  """The folder of an uninterrupted RL run."""
  path = tmp_path_factory.mktemp('lora') / 'run'
  runs.finish(path, RL)
  return path


@pytest.mark.slow
def test_a_killed_rl_run_ends_with_the_same_bits(runs, trained, tmp_path):
  runs.kill(tmp_path, lines(tmp_path, 3), RL)
  runs.finish(tmp_path, RL)
  runs.same(tmp_path, trained)
  assert 'other settings: lora.alpha' in runs.refuse(tmp_path, RL | {'lora.alpha': 4.0})
  assert 'lora.base_dtype' in runs.refuse(tmp_path, RL | {'train.param_dtype': 'bfloat16'})


@pytest.mark.slow
def test_a_checkpoint_holds_the_adapter_alone_and_the_folder_is_the_merged_model(runs, trained, tmp_path):
  _, arrays = runs.last_checkpoint(trained)
  params = {name for name in arrays if name.startswith('params.')}
  assert params and all(name.endswith(('.a', '.b')) for name in params)
  base, now = runs.weights(runs.base), runs.weights(trained)
  assert sum(x.size for x in arrays.values()) < sum(x.size for x in base.values())
  for name, before in base.items():
    if f'{name}.a' not in params:
      np.testing.assert_array_equal(now[name], before)
      continue
    a, b = (arrays[f'{name}.{part}'].astype(np.float64) for part in 'ab')
    change = 2.0 * np.einsum('lir,lro->lio', a.reshape(len(a), -1, 4), b.reshape(len(b), 4, -1))
    assert np.abs(change).max() > 1e-4
    np.testing.assert_allclose(now[name], before + change.reshape(before.shape), rtol=1e-5, atol=1e-6)
  rows = [row for row in runs.metrics(trained) if 'policy/kl' in row]
  assert len(rows) == 6 and rows[0]['policy/kl'] < rows[-1]['policy/kl']
  # An evaluation of the folder, and RL from it, see the merged model.
  small = {'model.path': trained, 'steps': 1, 'checkpoint.every': 1, 'eval.every': 9}
  runs.finish(tmp_path / 'next', small)
  final = json.loads((trained / 'summary.json').read_text())['final']
  assert json.loads((tmp_path / 'next' / 'summary.json').read_text())['base'] == final


@pytest.mark.slow
def test_exports_and_a_run_that_begins_with_an_adapter(runs, trained, tmp_path, capsys):
  peft, merged, again, ours = (str(tmp_path / name) for name in ('peft', 'merged', 'again', 'ours'))
  export = ['export', '--input', str(trained), '--output']
  assert convert.main([*export, peft, '--format', 'peft']) == 0
  assert convert.main([*export, merged]) == 0
  assert convert.main(['export', '--input', str(runs.base), '--adapter', peft, '--output', again]) == 0
  assert convert.main(['import', '--input', merged, '--output', ours]) == 0
  want = runs.weights(trained)
  for path in (merged, again, ours):
    got = runs.weights(path)
    assert [name for name, x in want.items() if got[name].tobytes() != x.tobytes()] == []
  settings = RL | {'lora.path': peft, 'steps': 1, 'checkpoint.every': 1, 'eval.every': 9}
  runs.finish(tmp_path / 'next', settings)
  summary = json.loads((tmp_path / 'next' / 'summary.json').read_text())
  assert summary['base'] == json.loads((trained / 'summary.json').read_text())['final']
  for change, message in (
    ({'lora.rank': 8}, 'lora.rank is 8, but the adapter in lora.path .* has 4'),
    ({'lora.alpha': 4.0}, 'lora.alpha is 4.0, but .* has 8.0'),
    ({'lora.targets': "('mlp.up',)"}, 'lora.targets is mlp.up, but .* has attention.k, '),
    ({'lora.path': '', 'lora.targets': "('q',)"}, 'lora.targets has q; .* are attention.k, '),
  ):
    with pytest.raises(AssertionError, match=message):
      raise AssertionError(runs.refuse(tmp_path / 'refused', settings | change))
  capsys.readouterr()
  with pytest.raises(SystemExit, match='--format peft writes the adapter of a run with LoRA, but'):
    convert.main(['export', '--input', str(runs.base), '--output', peft + '2', '--format', 'peft'])


@pytest.mark.slow
def test_sft_learns_with_adapters_and_a_killed_run_ends_with_the_same_bits(runs, tmp_path):
  settings = SFT | {'model.path': runs.base}
  how = {'module': 'sft', 'config': 'configs/sft.py:toy'}
  runs.finish(tmp_path / 'whole', settings, **how)
  killed = tmp_path / 'killed'
  runs.kill(killed, lines(killed, 3), settings, **how)
  runs.finish(killed, settings, **how)
  runs.same(killed, tmp_path / 'whole')
  summary = json.loads((killed / 'summary.json').read_text())
  assert summary['final']['loss'] < summary['base']['loss'] - 0.1
  assert checkpoint.open_model(killed).adapter.settings.rank == 4
