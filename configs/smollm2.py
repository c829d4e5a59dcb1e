"""R1's first two stages on a real pretrained model of 135M parameters; `configs/r1.py:smollm2` is this recipe.

  scripts/get_smollm2
  python -m experiments.recipe --config configs/r1.py:smollm2 --config.stages.base.config.path=models/smollm2.gguf \\
      --config.stages.gsm8k_train.config.path=gsm8k_train.jsonl.gz \\
      --config.stages.gsm8k_test.config.path=gsm8k_test.jsonl --workdir W

The model cannot do two-digit arithmetic when asked, so R1-Zero alone would have nothing to reinforce. The cold start
teaches it two ways to answer, with and without working; RL has to find out that working pays. Hardware: 2 CPU cores.
All numbers ours.
"""
from ml_collections import ConfigDict

from configs import common, sft, stages


def rl():
  """RL on arithmetic in words. Its model.path is what configs/sft.py:smollm2 has made of SmolLM2-135M.

  Hardware: 2 CPU cores. All numbers ours.
  """
  c = common.rl()
  c.steps = 20
  c.model.update(dtype='float32', remat='products')
  c.data.update(source='stories', template='chat_boxed', eval_fraction=0.0)
  c.rollout.update(prompts=8, samples=8, max_prompt=160, max_response=96, chunk=0)
  c.reward.update(workers=1)
  c.reward.parts = ConfigDict(dict(math=1.0, format=0.5))
  c.reward.options = ConfigDict(dict(format=dict(form='r1')))
  c.loss.kl_coef = 0.0
  c.optimizer.update(learning_rate=2e-5, schedule='linear', warmup=3, final_fraction=0.1)
  c.train.update(minibatches=1, microbatch=16, reference_refresh=0)
  c.eval.update(every=1000, problems=32, samples=1, final_problems=0, final_samples=0, temperature=0.6, top_p=0.95)
  c.checkpoint.update(every=5, keep_every=0)
  return c


def _evaluation():
  """Held-out stories, and GSM8K's test set, from which nothing is learned; form and language too."""
  c = rl()
  c.steps = 1
  parts = dict(stories=dict(source='stories', kind='stories'),
               gsm8k=dict(source='jsonl', kind='gsm8k', path='stage:gsm8k_train', eval_path='stage:gsm8k_test'))
  c.data = ConfigDict(dict(source='mixture', path='', eval_path='', eval_fraction=0.0, name='', template='chat_boxed',
                           chat_template='', language='en', parts=parts))
  c.reward.parts = ConfigDict(dict(math=1.0, format=0.5, language=0.0))
  c.eval.update(final_problems=256, final_samples=1)
  return c


def recipe():
  """R1's first two stages on SmolLM2-135M (scripts/get_smollm2): cold start, then RL with a language reward."""
  cold, reasoning = sft.get_config('smollm2'), rl()
  cold.model.path, reasoning.model.path = 'stage:base', 'stage:cold'
  reasoning.reward.parts.language = 0.2
  parts = dict(
      base=stages.external('SmolLM2-135M-Instruct, as a directory or a GGUF file'),
      gsm8k_train=stages.external("GSM8K's training problems, a JSON Lines file; nothing learns from them"),
      gsm8k_test=stages.external("GSM8K's test problems, a JSON Lines file"),
      cold=stages.stage('sft', cold, 'Stage 1: cold start with worked solutions', 'r1'),
      reasoning=stages.stage('rl', reasoning, 'Stage 2: RL with language consistency', 'r1'))
  return stages.recipe(
      parts, evaluations=dict(r1=_evaluation()),
      comparisons=dict(stories=dict(first='cold', second='reasoning', figure='correct', kind='stories'),
                       gsm8k=dict(first='cold', second='reasoning', figure='correct', kind='gsm8k')))
