"""SmolLM2 through lm-evaluation-harness: our adapter and lm_eval's own model `hf` give equal numbers."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('lm_eval', reason="needs lm_eval: pip install -c constraints.txt -e '.[lm-eval,torch-parity]'.")
pytest.importorskip('torch', reason="needs torch: pip install -c constraints.txt -e '.[lm-eval,torch-parity]'.")
transformers = pytest.importorskip('transformers')

from r1jax import checkpoint, config, parallel, sampling  # noqa: E402
from r1jax.config import ConfigError  # noqa: E402
from r1jax.evaluation.harness import HarnessModel  # noqa: E402
from tests.evaluation import harness_tasks  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / 'models' / 'smollm2.gguf'
ROWS = 20
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not PATH.exists(), reason='needs models/smollm2.gguf: scripts/get_smollm2'),
]


def run(*arguments):
  offline = {'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, env=os.environ | offline, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """SmolLM2 as a Hugging Face directory."""
  path = tmp_path_factory.mktemp('smollm2') / 'model'
  run('-m', 'experiments.convert', 'export', '--input', str(PATH), '--output', str(path))
  return path


@pytest.fixture(scope='module')
def model(directory):
  """The adapter of the model, which can only encode."""
  source, mesh = checkpoint.open_model(directory), parallel.make_mesh(config.Mesh())
  return HarnessModel(
    source.cfg, source.load_tokenizer(), None, mesh, sampling.Precision(), limit=512, batch=4, key=None
  )


def test_numbers_and_texts_are_those_of_hf(directory, data_dir, tmp_path):
  tasks = tmp_path / 'tasks'
  harness_tasks.write(data_dir, tasks, ROWS)
  run('tests/evaluation/harness_tasks.py', 'hf', directory, tasks, str(ROWS), tmp_path / 'hf.json')
  flags = ['--tasks', ','.join(harness_tasks.NAMES), '--include_path', tasks, '--limit', str(ROWS)]
  ours = ['-m', 'experiments.lm_eval', f'--model.path={directory}', *flags, '--max_length=512', '--batch=4']
  shown = run(*ours, '--workdir', tmp_path / 'ours')
  assert run(*ours, '--workdir', tmp_path / 'ours') == shown  # from its cache
  results = json.loads((tmp_path / 'ours' / 'results.json').read_text())
  samples = {
    name: [json.loads(line) for line in (tmp_path / 'ours' / 'samples' / f'{name}.jsonl').read_text().splitlines()]
    for name in harness_tasks.NAMES
  }
  same(harness_tasks.plain(results | {'samples': samples}), json.loads((tmp_path / 'hf.json').read_text()))


def same(ours, theirs):
  """Asserts equal metrics and texts, and log-likelihoods to 1e-3."""
  found, wanted = ours['metrics'], theirs['metrics']
  assert found['local_gsm8k'] == wanted['local_gsm8k'] and found['local_mmlu'] == wanted['local_mmlu']
  np.testing.assert_allclose(
    found['local_text']['word_perplexity,none'], wanted['local_text']['word_perplexity,none'], rtol=1e-4
  )
  assert ours['samples']['local_gsm8k'] == theirs['samples']['local_gsm8k']
  for name, rounding in (('local_mmlu', 0), ('local_text', 2e-5)):  # a text's is a sum of hundreds, in hf of float32
    ours_flat, theirs_flat = (np.array(flat(x['samples'][name]), np.float64) for x in (ours, theirs))
    assert len(ours_flat) >= ROWS
    np.testing.assert_allclose(ours_flat, theirs_flat, atol=1e-3, rtol=rounding)


def flat(value):
  return [x for part in value for x in flat(part)] if isinstance(value, list) else [value]


CHAT = [{'role': 'user', 'content': 'Hi <|im_end|> there '}, {'role': 'assistant', 'content': ' Sure, '}]


def test_texts_become_the_ids_of_hf(directory, model):
  theirs = transformers.AutoTokenizer.from_pretrained(directory)
  for text in ('a', ' a  b\n', '<|im_start|>user\nhi<|im_end|>', 'x<|im_end|>', '等等，é'):
    assert model.tok_encode(text) == theirs.encode(text), text
    assert model.tok_encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
  assert model.prefix_token_id == theirs.bos_token_id and model.eot_token_id == theirs.eos_token_id
  assert model._encode_pair('Answer: ', 'A') == (theirs.encode('Answer:'), theirs.encode('Answer: A')[2:])
  for opens in (True, False):
    chat = CHAT[:1] if opens else CHAT
    text = model.apply_chat_template(chat, add_generation_prompt=opens)
    assert text == theirs.apply_chat_template(
      chat, tokenize=False, add_generation_prompt=opens, continue_final_message=not opens
    )


def test_what_our_sampler_lacks_is_refused(model):
  until, length, chosen = model._settings({'until': 'x', 'max_gen_toks': 7, 'temperature': 0.6, 'top_p': 0.9})
  assert (until, length, chosen.temperature, chosen.top_p) == (['x'], 7, 0.6, 0.9)
  assert model._settings({'do_sample': False, 'temperature': 0.6})[1:] == (256, sampling.SamplingParams(0.0))
  with pytest.raises(ConfigError, match='num_beams=4'):
    model._settings({'num_beams': 4})
  with pytest.raises(ConfigError, match='512'):
    model._settings({'max_gen_toks': 512})
