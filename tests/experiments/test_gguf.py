"""A run that starts from a GGUF file is the run from the directory that it was made of."""

import pytest

from experiments import convert
from r1jax import checkpoint, tokenizers


@pytest.mark.slow
def test_a_run_from_a_gguf_file(runs, tmp_path):
  file = tmp_path / 'base.gguf'
  assert convert.main(['export', '--input', str(runs.base), '--output', str(file), '--format', 'gguf']) == 0
  settings = {'steps': 1, 'checkpoint.every': 1, 'eval.every': 9}
  for name, base in (('gguf', file), ('hf', runs.base)):
    runs.finish(tmp_path / name, settings | {'model.path': base})
  first, other = runs.weights(tmp_path / 'gguf'), runs.weights(tmp_path / 'hf')
  assert first.keys() == other.keys() and all((first[name] == x).all() for name, x in other.items())
  source = checkpoint.open_model(tmp_path / 'gguf')
  assert source.tokenizer == file and source.load_tokenizer().eos == tokenizers.load(runs.base).eos
  for target, options in (('back', []), ('back.gguf', ['--format', 'gguf', '--quantize', 'q8_0'])):
    assert (
      convert.main(['export', '--input', str(tmp_path / 'gguf'), '--output', str(tmp_path / target), *options]) == 0
    )
    assert checkpoint.open_model(tmp_path / target).load_tokenizer().encode('1 + 2\n') == tokenizers.load(
      runs.base
    ).encode('1 + 2\n')
