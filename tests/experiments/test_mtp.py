"""A model with a layer for multi-token prediction through the commands: import, SFT with it and without, export."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import convert, plan, sft
from r1jax import checkpoint, config, models, tokenizers
from r1jax.config import ConfigError
from r1jax.runs import policies
from tests.checkpoint.model_dirs import DEEPSEEK, read_back, same, write
from tests.checkpoint.test_mtp import AT, COPIES, DECLARED, with_layer

MODEL = dataclasses.replace(DEEPSEEK, vocab=320, context=256)
TEXT = 'Two and 2 make 4. 二加二得四。 '


@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
  path = tmp_path_factory.mktemp('model')
  tensors = {name: 0.1 * x if x.dtype == np.float32 else x for name, x in with_layer(MODEL, np.float32).items()}
  write(path / 'hf', MODEL, tensors, **DECLARED)
  tokenizers.train([TEXT * 3, 'abc ' * 20], path / 'hf' / 'tokenizer.model', 300)
  rows = [{'problem': f'{i} and 2?', 'response': f'{i} and 2 make {i + 2}.'} for i in range(40)]
  (path / 'data.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path / 'hf'


def converted(*args):
  assert convert.main(list(map(str, args))) == 0


def declared(path):
  return json.loads((path / 'config.json').read_text())['num_nextn_predict_layers']


def cfg(path, **settings):
  return config.SFT(
    seed=0,
    epochs=1.0,
    batch=2,
    model=config.Model(path=str(path)),
    data=config.SFTData('jsonl', 64, path=str(path.parent / 'data.jsonl'), eval_fraction=0.2, template='plain'),
    optimizer=config.Optimizer(learning_rate=1e-2),
    eval=config.SFTEvaluation(every=100),
    checkpoint=config.Checkpoint(every=100),
    **settings,
  )


def test_import_and_export_keep_the_layer_unless_told(theirs, tmp_path, capsys):
  converted('import', '--check', '--input', theirs)
  assert 'skipped' not in capsys.readouterr().out
  converted('import', '--input', theirs, '--output', tmp_path / 'ours')
  converted('export', '--input', tmp_path / 'ours', '--output', tmp_path / 'back')
  same(read_back(tmp_path / 'back'), read_back(theirs))
  assert declared(tmp_path / 'ours') == declared(tmp_path / 'back') == 1
  assert 'Without' not in capsys.readouterr().out
  converted('export', '--drop_mtp', '--input', tmp_path / 'ours', '--output', tmp_path / 'less')
  assert 'num_nextn_predict_layers becomes 0, not 1' in capsys.readouterr().out
  same(read_back(tmp_path / 'less'), {name: x for name, x in read_back(theirs).items() if AT not in name})
  assert declared(tmp_path / 'less') == 0
  for path in (theirs, tmp_path / 'ours'):
    assert policies.open_policy(path).cfg == MODEL  # as RL opens it
    assert checkpoint.open_model(path, mtp=True).cfg.mtp == 1


def test_sft_and_its_plan_refuse_a_model_without_the_layer(theirs, tmp_path):
  converted('import', '--drop_mtp', '--input', theirs, '--output', tmp_path / 'm')
  asks = dataclasses.replace(cfg(theirs, mtp_coef=0.3), model=config.Model(path=str(tmp_path / 'm')))
  with pytest.raises(ConfigError, match='mtp_coef is 0.3, but .*/m has 0 layers'):
    sft.make_run(asks, str(tmp_path / 'run'))
  assert plan.model_of(cfg(theirs, mtp_coef=0.3)).mtp == 1 and plan.model_of(cfg(theirs)).mtp == 0
  preset = lambda name: plan.model_of(dataclasses.replace(asks, model=config.Model(path='', preset=name)))
  assert preset('deepseek_v3') == dataclasses.replace(models.PRESETS['deepseek_v3'], mtp=1)
  assert preset('toy').mtp == 0


@pytest.mark.slow
def test_sft_trains_the_layer_and_exports_it_or_drops_it(theirs, tmp_path, capsys):
  summary = sft.run_sft(cfg(theirs, mtp_coef=0.3), str(tmp_path / 'run'))
  assert summary['final']['mtp_loss'] < summary['base']['mtp_loss'] - 0.1
  converted('export', '--input', tmp_path / 'run', '--output', tmp_path / 'hf')
  got, before = read_back(tmp_path / 'hf'), read_back(theirs)
  assert got.keys() == before.keys() and declared(tmp_path / 'hf') == 1
  for copy, original in COPIES.items():
    np.testing.assert_array_equal(got[AT + copy], got[original])
  # A bias that only chooses, and experts that no token visited, do not move.
  still = [name for name in before if (got[name] == before[name]).all()]
  assert all('correction_bias' in name or '.experts.' in name for name in still)
  assert f'{AT}eh_proj.weight' not in still
  # From the run's folder: without the layer, and with it.
  sft.run_sft(dataclasses.replace(cfg(theirs), model=config.Model(path=str(tmp_path / 'run'))), str(tmp_path / 'less'))
  capsys.readouterr()
  converted('export', '--input', tmp_path / 'less', '--output', tmp_path / 'hf_less')
  assert 'num_nextn_predict_layers becomes 0, not 1' in capsys.readouterr().out
  assert declared(tmp_path / 'hf_less') == 0 and not any(AT in name for name in read_back(tmp_path / 'hf_less'))
  assert checkpoint.open_model(tmp_path / 'less', mtp=True).cfg == MODEL
  assert checkpoint.open_model(tmp_path / 'run', mtp=True).cfg.mtp == 1
