"""Converts models: a Hugging Face directory or a GGUF file to a checkpoint of r1jax, and back.

  scripts/convert import --input MODEL --output DIR [--dtype keep|float32|bfloat16|float16] [--check] [--dry_run]
  scripts/convert export --input MODEL --output HF_DIR [--step N] [--dtype ...] [--shard_gb 5] [--dry_run]
  scripts/convert export --input MODEL --output FILE.gguf --format gguf [--quantize none|q8_0|q4_0] [--step N] [...]
  scripts/convert export --input RUN --output PEFT_DIR --format peft [--step N] [--dtype ...]

Training and scoring read Hugging Face directories and GGUF files directly, so `import` is optional. It saves the time
of reading them repeatedly, and dequantises weights once. `--check` only compares names and shapes of the tensors with
the config and lists each mismatch; `--dry_run` prints what would be written. DeepSeek-V3's layer for multi-token
prediction is kept, unless `--drop_mtp` is passed.

A run with LoRA is exported merged into its base, or its adapter alone with `--format peft`. `--adapter PEFT_DIR` merges
an adapter in PEFT's format into the model.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import sys

import jax
import tqdm

from r1jax import checkpoint, gguf_files, models, parallel, tokenizers
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.checkpoint import adapters, families, gguf_export, gguf_models, hf, safetensors_files
from r1jax.runs import cli, json_files, runtime

DTYPES = ('keep', 'float32', 'bfloat16', 'float16')


def check(path, mtp):
  """Prints each tensor that does not match the config; returns whether all do."""
  if gguf_files.is_gguf(path):
    file, _, cfg = gguf_models.read(path)
    entries, problems, skipped = file.tensors, gguf_models.check(file, cfg), {}
  else:
    config = hf.read_config(path)
    entries = safetensors_files.entries(path)
    cfg = families.from_hf(config, os.path.join(path, 'config.json'), entries if mtp else ())
    problems, skipped = hf.check(cfg, config, entries)
  for line in [*problems, *(f'{name} is skipped (multi-token prediction)' for name in sorted(skipped))]:
    print(line)
  print(f'{path}: {len(entries)} tensors; {len(problems)} are missing, unexpected or of the wrong shape.')
  return not problems


def load(source, dtype):
  """Loads the parameters of a Source in `dtype` ('keep': as stored), with a progress bar."""
  with tqdm.tqdm(total=1, unit='B', unit_scale=True, desc='reading') as bar:
    mesh = parallel.make_mesh(config_lib.Mesh())
    return source.load(source.abstract(mesh, dtype), lambda done, total: _show(bar, done, total))


def _show(bar, done, total):
  bar.total = total
  bar.update(done - bar.n)


def print_plan(source, dtype, target):
  """Prints what a conversion would read and write."""
  leaves = jax.tree_util.tree_leaves_with_path(source.abstract(parallel.make_mesh(config_lib.Mesh()), dtype))
  for key, leaf in leaves:
    print(f'{jax.tree_util.keystr(key, simple=True, separator="."):32} {leaf.dtype.name:9} {list(leaf.shape)}')
  total = sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves)
  print(
    f'{source.path} ({source.config["architectures"][0]}) -> {target}: {_count(source):,} parameters, '
    f'{total / 1e9:.2f} GB, tokenizer from {source.tokenizer}.'
  )


def _count(source):
  return params_lib.count(models.specs(source.cfg))


def _config(source, params):
  """The config.json of a Source's parameters. Says so if a layer for multi-token prediction is left out."""
  declared = families.prediction_layers(source.config)
  if declared and not source.cfg.mtp:
    print(f'Without the layer for multi-token prediction: num_nextn_predict_layers becomes 0, not {declared}.')
  return families.for_export(source.config, params['embed'].dtype.name, source.cfg.mtp)


def import_model(args):
  """Hugging Face directory or GGUF file -> checkpoint: config, tokenizer files, and a store with the parameters."""
  if args.check:
    return 0 if check(args.input, not args.drop_mtp) else 1
  source = _with_adapter(checkpoint.open_model(args.input, mtp=not args.drop_mtp), args)
  if args.dry_run:
    print_plan(source, args.dtype, args.output)
    return 0
  target = pathlib.Path(args.output)
  config_lib.require(not target.exists(), f'{target} already exists; remove it or choose another --output.')
  source.load_tokenizer()
  writing = target.with_name(target.name + '.writing')
  shutil.rmtree(writing, ignore_errors=True)
  try:
    writing.mkdir(parents=True)
    params = load(source, args.dtype)
    config = _config(source, params)
    with tokenizers.as_folder(source.tokenizer) as folder:
      for file in tokenizers.files(folder):
        shutil.copy(file, writing)
    json_files.write_json(str(writing / 'config.json'), config)
    with checkpoint.Store(
      writing / checkpoint.CHECKPOINTS, config_lib.Checkpoint(every=1), {'model': config, 'base': source.digest}
    ) as store:
      store.save(0, {'params': params})
    os.rename(writing, target)
  except BaseException:
    shutil.rmtree(writing, ignore_errors=True)
    raise
  print(f'{target}: {_count(source):,} parameters')
  return 0


def export_model(args):
  """Checkpoint, run, Hugging Face directory or GGUF file -> Hugging Face directory or GGUF file."""
  config_lib.require(args.shard_gb > 0, f'--shard_gb is {args.shard_gb}; it must be positive.')
  config_lib.require(
    args.format == 'gguf' or args.quantize == 'none', f'--quantize {args.quantize} is for --format gguf only; add that.'
  )
  source = checkpoint.open_model(args.input, args.step, mtp=not args.drop_mtp)
  if args.format == 'peft':
    return _write_peft(source, args)
  source = _with_adapter(source, args)
  if args.dry_run:
    print_plan(source, args.dtype, args.output)
    return 0
  (gguf_export if args.format == 'gguf' else hf).check_target(args.output)
  tokenizer = source.load_tokenizer()
  if args.format == 'gguf':
    _write_gguf(source, tokenizer, args)
  else:
    _write_hf(source, args)
  print(f'{args.output}: {_count(source):,} parameters')
  return 0


def _with_adapter(source, args):
  return source.with_adapter(args.adapter) if args.adapter else source


def _write_peft(source, args):
  config_lib.require(
    source.adapter and not args.adapter,
    f'--format peft writes the adapter of a run with LoRA, but {args.adapter or args.input} is none; drop '
    f'{"--adapter" if args.adapter else "--format peft, or pass the folder of such a run"}.',
  )
  specs, s = source.adapter.specs(source.cfg), source.adapter.settings
  print(
    f'{source.path} -> {args.output or "(nothing is written)"}: an adapter of rank {s.rank}, alpha {s.alpha:g}, '
    f'{params_lib.count(specs):,} parameters, for {source.base.path}.'
  )
  if not args.dry_run:
    dtype = 'float32' if args.dtype == 'keep' else args.dtype
    adapters.save_peft(args.output, source.adapter, source.cfg, source.base.path, dtype)
  return 0


def _write_hf(source, args):
  params = load(source, args.dtype)
  config = _config(source, params)
  with tokenizers.as_folder(source.tokenizer) as folder, _writing() as progress:
    files = tokenizers.files(folder)
    hf.save(args.output, source.cfg, params, config, files, int(args.shard_gb * 1e9), progress)


def _write_gguf(source, tokenizer, args):
  metadata = gguf_export.metadata(source.cfg, tokenizer)
  params = load(source, args.dtype)
  with _writing() as progress:
    kept = gguf_export.save(args.output, source.cfg, params, metadata, args.quantize, progress)
  if kept:
    print(f'{len(kept)} matrices are not quantised, as their rows are no multiples of 32: {", ".join(kept[:4])} ...')


@contextlib.contextmanager
def _writing():
  with tqdm.tqdm(total=1, unit='B', unit_scale=True, desc='writing') as bar:
    yield lambda done, total: _show(bar, done, total)


def parser():
  out = argparse.ArgumentParser(prog='scripts/convert', description=(__doc__ or '').partition('\n')[0])
  commands = out.add_subparsers(dest='command', required=True)
  for name, run in (('import', import_model), ('export', export_model)):
    command = commands.add_parser(name, description=run.__doc__)
    command.set_defaults(run=run)
    command.add_argument('--input', required=True, help='the model to convert')
    command.add_argument('--output', default='', help='the directory or file to write')
    command.add_argument(
      '--dtype',
      choices=DTYPES,
      default='keep',
      help="of the parameters; 'keep': as stored, which for a run is the dtype it trains in",
    )
    command.add_argument('--drop_mtp', action='store_true', help='leave the layer for multi-token prediction out')
    command.add_argument('--adapter', default='', help="PEFT's directory of an adapter to merge into the model")
    command.add_argument('--dry_run', action='store_true', help='print what would be written')
  commands.choices['import'].add_argument(
    '--check', action='store_true', help='only list tensors that do not match the config'
  )
  commands.choices['export'].add_argument('--step', type=int, help="of a run's checkpoint; default: the newest")
  commands.choices['export'].add_argument(
    '--format', choices=('hf', 'gguf', 'peft'), default='hf', help='what to write'
  )
  commands.choices['export'].add_argument(
    '--quantize', choices=gguf_export.QUANTIZE, default='none', help='of the matrices of a GGUF file'
  )
  commands.choices['export'].add_argument('--shard_gb', type=float, default=5.0, help='maximum gigabytes of one file')
  return out


def main(argv):
  args = parser().parse_args(argv)
  if not args.output and not args.dry_run and not getattr(args, 'check', False):
    parser().error('--output is missing')
  runtime.set_up_process()
  with cli.errors_in_one_line():
    return args.run(args)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
