"""Models in and out: a Hugging Face directory to a checkpoint of ours, and back.

  scripts/convert import --input HF_DIR --output DIR [--dtype keep|float32|bfloat16|float16] [--check] [--dry_run]
  scripts/convert export --input RUN_OR_DIR --output HF_DIR [--step N] [--dtype ...] [--shard_gb 5] [--dry_run]

`import` is not needed to train or score: both read Hugging Face directories as they are. It saves the time of doing so
again and again, and multiplies FP8 weights out once. `--check` only compares the tensors' names and shapes with the
config, and names each that does not fit; `--dry_run` prints what would be written.
"""

import argparse
import os
import pathlib
import shutil
import sys

import jax
import tqdm

from r1jax import checkpoint, models, parallel, tokenizers
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.runs import cli, json_files, runtime

DTYPES = ('keep', 'float32', 'bfloat16', 'float16')


def check(path):
  """Prints each tensor that does not fit; returns whether all do."""
  config = hf.read_config(path)
  cfg = families.from_hf(config, os.path.join(path, 'config.json'))
  found = safetensors_files.entries(path)
  lines, skipped = hf.check(cfg, config, found)
  for line in [*lines, *(f'{name} is left out (multi-token prediction)' for name in sorted(skipped))]:
    print(line)
  print(f'{path}: {len(found)} tensors, {len(lines)} of them missing, unexpected or misshapen.')
  return not lines


def load(source, dtype):
  """The parameters, as stored or in `dtype`."""
  with tqdm.tqdm(total=1, unit='B', unit_scale=True, desc='reading') as bar:
    mesh = parallel.make_mesh(config_lib.Mesh())
    return source.load(source.abstract(mesh, dtype), lambda done, total: _show(bar, done, total))


def _show(bar, done, total):
  bar.total = total
  bar.update(done - bar.n)


def plan(source, dtype, target):
  """Prints what would be read and written."""
  leaves = jax.tree_util.tree_leaves_with_path(source.abstract(parallel.make_mesh(config_lib.Mesh()), dtype))
  for at, leaf in leaves:
    print(f'{jax.tree_util.keystr(at, simple=True, separator="."):32} {leaf.dtype.name:9} {list(leaf.shape)}')
  total = sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves)
  print(
    f'{source.path} ({source.config["architectures"][0]}) -> {target}: {_count(source):,} parameters, '
    f'{total / 1e9:.2f} GB, tokenizer from {source.tokenizer}.'
  )


def _count(source):
  return params_lib.count(models.specs(source.cfg))


def import_model(args):
  """Hugging Face directory -> checkpoint: config, tokenizer files, and a store that holds the parameters."""
  if args.check:
    return 0 if check(args.input) else 1
  source = checkpoint.open_model(args.input)
  if args.dry_run:
    plan(source, args.dtype, args.output)
    return 0
  target = pathlib.Path(args.output)
  config_lib.require(not target.exists(), f'{target} is there already; remove it or choose another --output.')
  source.load_tokenizer()
  writing = target.with_name(target.name + '.writing')
  shutil.rmtree(writing, ignore_errors=True)
  try:
    writing.mkdir(parents=True)
    params = load(source, args.dtype)
    config = families.for_export(source.config, params['embed'].dtype.name)
    for file in tokenizers.files(source.tokenizer):
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
  """Checkpoint, run or Hugging Face directory -> Hugging Face directory."""
  config_lib.require(args.shard_gb > 0, f'--shard_gb is {args.shard_gb}; it must be positive.')
  source = checkpoint.open_model(args.input, args.step)
  if args.dry_run:
    plan(source, args.dtype, args.output)
    return 0
  hf.check_target(args.output)
  source.load_tokenizer()
  params = load(source, args.dtype)
  config = families.for_export(source.config, params['embed'].dtype.name)
  with tqdm.tqdm(total=1, unit='B', unit_scale=True, desc='writing') as bar:
    hf.save(
      args.output,
      source.cfg,
      params,
      config,
      tokenizers.files(source.tokenizer),
      int(args.shard_gb * 1e9),
      lambda done, total: _show(bar, done, total),
    )
  print(f'{args.output}: {_count(source):,} parameters')
  return 0


def parser():
  out = argparse.ArgumentParser(prog='scripts/convert', description=__doc__.splitlines()[0])
  commands = out.add_subparsers(dest='command', required=True)
  for name, run in (('import', import_model), ('export', export_model)):
    command = commands.add_parser(name, description=run.__doc__)
    command.set_defaults(run=run)
    command.add_argument('--input', required=True, help='the model')
    command.add_argument('--output', default='', help='the directory to be')
    command.add_argument(
      '--dtype',
      choices=DTYPES,
      default='keep',
      help="of the parameters; 'keep': as stored, which for a run is as it trains them",
    )
    command.add_argument('--dry_run', action='store_true', help='print what would be written')
  commands.choices['import'].add_argument('--check', action='store_true', help='only name tensors that do not fit')
  commands.choices['export'].add_argument('--step', type=int, help="of a run's checkpoint; the newest if not given")
  commands.choices['export'].add_argument('--shard_gb', type=float, default=5.0, help='most gigabytes of one file')
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
