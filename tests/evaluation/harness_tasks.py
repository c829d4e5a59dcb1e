"""Tasks of lm-evaluation-harness on files: GSM8K's form, MMLU's, and perplexities of texts. Run as a program they are
answered by lm_eval's own model `hf`, beside whose results a test lays ours.

  python tests/evaluation/harness_tasks.py DATA FOLDER ROWS          writes the tasks
  python tests/evaluation/harness_tasks.py hf MODEL FOLDER LIMIT OUT  answers them; OUT: a JSON file
"""

import gzip
import json
import pathlib
import sys

NAMES = ('local_gsm8k', 'local_mmlu', 'local_text')

GSM8K = {
  'output_type': 'generate_until',
  'fewshot_split': 'train',
  'num_fewshot': 2,
  'doc_to_text': 'Question: {{problem}}\nAnswer:',
  'doc_to_target': '{{solution}}\n#### {{answer}}',
  'generation_kwargs': {'until': ['Question:', '</s>', '<|im_end|>'], 'do_sample': False, 'max_gen_toks': 64},
  'filter_list': [
    {
      'name': 'flexible-extract',
      'filter': [
        {'function': 'regex', 'group_select': -1, 'regex_pattern': r'(-?[$0-9.,]{2,})|(-?[0-9]+)'},
        {'function': 'take_first'},
      ],
    }
  ],
  'metric_list': [
    {
      'metric': 'exact_match',
      'aggregation': 'mean',
      'higher_is_better': True,
      'ignore_case': True,
      'regexes_to_ignore': [',', r'\$', r'(?s).*#### ', r'\.$'],
    }
  ],
}
MMLU = {
  'output_type': 'multiple_choice',
  'num_fewshot': 0,
  'doc_to_text': '{{problem.strip()}}\n'
  'A. {{options[0]}}\nB. {{options[1]}}\nC. {{options[2]}}\nD. {{options[3]}}\nAnswer:',
  'doc_to_choice': ['A', 'B', 'C', 'D'],
  'doc_to_target': 'answer',
  'metric_list': [{'metric': 'acc', 'aggregation': 'mean', 'higher_is_better': True}],
}
TEXT = {
  'output_type': 'loglikelihood_rolling',
  'num_fewshot': 0,
  'doc_to_text': '',
  'doc_to_target': '{{problem}}\n{{solution}}',
  'metric_list': [{'metric': 'word_perplexity'}],
}


def write(data, folder, rows):
  """Writes the tasks, of `rows` problems each, from the folder of public data sets."""
  data, folder = pathlib.Path(data), pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)

  def lines(path):
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as f:
      return f.read().splitlines()

  spread = lambda found: found[:: len(found) // rows][:rows]  # over all subjects
  test = lines(data / 'math' / 'gsm8k_test.jsonl')[:rows]
  files = {
    'gsm8k': {'test': test, 'train': lines(data / 'math' / 'gsm8k_train.jsonl.gz')[:8]},
    'mmlu': {'test': spread(lines(data / 'knowledge' / 'mmlu_test.jsonl.gz'))},
    'text': {'test': test},
  }
  for (name, splits), task in zip(files.items(), (GSM8K, MMLU, TEXT)):
    paths = {split: folder / f'{name}_{split}.jsonl' for split in splits}
    for split, path in paths.items():
      path.write_text('\n'.join(splits[split]) + '\n', encoding='utf-8')
    split_keys = {f'{"training" if split == "train" else split}_split': split for split in splits}
    task = {
      'task': f'local_{name}',
      'dataset_path': 'json',
      'dataset_kwargs': {'data_files': {split: str(path) for split, path in paths.items()}},
      **split_keys,
      **task,
    }
    (folder / f'local_{name}.yaml').write_text(json.dumps(task, indent=1))  # JSON is YAML


def plain(results):
  """What is compared of lm_eval's results: metrics, and of each sample what the model answered."""
  metrics = {
    task: {name: x for name, x in found.items() if isinstance(x, (int, float)) and 'stderr' not in name}
    for task, found in results['results'].items()
  }
  samples = {
    task: [[row['doc_id'], row['resps']] for row in sorted(rows, key=lambda row: row['doc_id'])]
    for task, rows in results['samples'].items()
  }
  return {'metrics': metrics, 'samples': samples}


def by_hf(model, folder, limit, names=NAMES, **options):
  """lm_eval's results with its own model `hf` in float32."""
  import lm_eval
  from lm_eval.tasks import TaskManager

  return lm_eval.simple_evaluate(
    'hf',
    model_args={'pretrained': str(model), 'dtype': 'float32', 'max_length': 512},
    tasks=list(names),
    task_manager=TaskManager(include_path=str(folder)),
    device='cpu',
    batch_size=4,
    limit=limit,
    bootstrap_iters=0,
    **options,
  )


if __name__ == '__main__':
  if sys.argv[1] == 'hf':
    _, _, model, folder, limit, out = sys.argv
    with open(out, 'w', encoding='utf-8') as f:
      json.dump(plain(by_hf(model, folder, int(limit))), f, ensure_ascii=False)
  else:
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]))
