"""The work of `experiments.benchmark sample|train` with transformers and torch alone, as one JSON line.

  python -m experiments.benchmark_torch sample --model.path=DIR --temperature=0.6 --top_p=0.95
  python -m experiments.benchmark_torch train --model.path=DIR

It needs the extra `torch-parity`. `sample` is `generate` with num_return_sequences. `train` is a plain loop: GRPO's
clipped loss with the k3 estimator of the KL divergence, each response behind a copy of its prompt, logits of the
response's positions alone, gradients accumulated over microbatches, and AdamW.
"""

import json
import os
import resource
import statistics
import sys

from absl import app, flags
import numpy as np
import torch
import transformers

from experiments import benchmark
from r1jax import models
from r1jax.checkpoint import families


def open_model(f):
  """The model of --model.path, a Hugging Face directory, or random weights of the shape --preset."""
  path = f['model.path'].value
  if path:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
  kwargs = dict(families.to_hf(models.PRESETS[f.preset]))
  config = transformers.AutoConfig.for_model(kwargs.pop('model_type'), **kwargs)
  return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def sample(model, f):
  """Calls `generate` once; the number of new tokens."""
  model.eval()
  prompts = torch.as_tensor(
    np.random.default_rng(0).integers(3, model.config.vocab_size, (f.prompts, f.prompt_tokens)), dtype=torch.int64
  )

  def run():
    with torch.inference_mode():
      model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=f.temperature,
        top_p=f.top_p,
        top_k=0,
        num_return_sequences=f.samples,
        min_new_tokens=f.new_tokens,
        max_new_tokens=f.new_tokens,
        pad_token_id=0,
      )

  return f.prompts * f.samples * f.new_tokens, run


def train(model, f):
  """One optimizer step; the positions of its batch."""
  model.train()
  rows, length = f.prompts * f.samples, f.new_tokens
  rng = np.random.default_rng(0)
  draw = lambda *shape: torch.as_tensor(rng.integers(3, model.config.vocab_size, shape), dtype=torch.int64)
  ids = torch.cat([draw(f.prompts, f.prompt_tokens).repeat_interleave(f.samples, 0), draw(rows, length)], dim=1)
  old = torch.full((rows, length), -float(np.log(model.config.vocab_size)))
  advantage = torch.as_tensor(rng.standard_normal((rows, 1)), dtype=torch.float32)
  optimizer = torch.optim.AdamW(model.parameters(), lr=3e-6, betas=(0.9, 0.95), weight_decay=0.0)

  def run():
    for at in range(0, rows, f.microbatch):
      part = slice(at, at + f.microbatch)
      logits = model(ids[part], logits_to_keep=length + 1, use_cache=False).logits[:, :-1]
      logp = torch.log_softmax(logits, dim=-1).gather(2, ids[part, -length:, None])[..., 0]
      ratio = torch.exp(logp - logp.detach())  # on policy, as in the update that it is compared with
      surrogate = torch.minimum(ratio * advantage[part], ratio.clamp(0.8, 1.2) * advantage[part])
      difference = old[part] - logp
      kl = torch.exp(difference) - difference - 1
      (-(surrogate - 0.04 * kl).mean(dim=1).sum() / rows).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()

  return rows * (f.prompt_tokens + length), run


def main(argv):
  name, f = argv[1] if len(argv) == 2 else None, flags.FLAGS
  if name not in ('sample', 'train'):
    sys.exit('usage: python -m experiments.benchmark_torch sample|train [--flags]; see --help.')
  if f.dtype != 'float32':
    sys.exit('error: --dtype must be float32 here: torch has few fast bfloat16 products on a CPU.')
  model = open_model(f)
  tokens, run = {'sample': sample, 'train': train}[name](model, f)
  times, _ = benchmark.timed(run, f.repeats)
  rate = [tokens / wall for wall, _ in times]
  line = {
    'bench': f'torch {name}',
    'model': f['model.path'].value or f.preset,
    **{key: f[key].value for key in ('prompts', 'samples', 'prompt_tokens', 'new_tokens', 'temperature', 'top_p')},
    'tok_s_best': round(max(rate), 1),
    'tok_s_median': round(statistics.median(rate), 1),
    'tok_per_cpu_s': round(max(tokens / cpu for _, cpu in times), 1),
    'peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    'cores': len(os.sched_getaffinity(0)),
    'load1': round(os.getloadavg()[0], 2),
    'torch': torch.__version__,
    'transformers': transformers.__version__,
  }
  if name == 'train':
    line['response_tok_s'] = round(max(rate) * f.new_tokens / (f.prompt_tokens + f.new_tokens), 1)
  print(json.dumps(line))


if __name__ == '__main__':
  benchmark.define_sizes()
  app.run(main)
