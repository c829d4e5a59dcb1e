"""What the config files share: the paper's hyper-parameters of RL, a part of a mixture, and strict variants."""
from ml_collections import ConfigDict

MESH = dict(data=1, fsdp=-1, expert=1, tp=1, seq=1)
SAME_MESH = dict(data=0, fsdp=0, expert=0, tp=0, seq=0)  # for a sampler: zeros stand for the trainer's sizes


def rl():
  """R1-Zero's numbers, from which R1's stages of RL differ in what configs/r1_rl.py sets.

  A step is one rollout of 8,192 responses and 16 optimizer steps. `paper` numbers are in docs/paper.md.
  """
  return ConfigDict(dict(
      seed=0,
      steps=650,                                                                 # paper (10,400 optimizer steps)
      topology='',
      model=dict(path='', preset='', dtype='bfloat16', remat='full', attention='auto'),  # ours
      data=dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', template='r1_zero',
                chat_template='', language='en', evaluation=(), drop_solved=0.0),
      rollout=dict(prompts=512, samples=16, temperature=1.0,                     # paper (32 questions x 16 a batch)
                   max_prompt=1024, max_response=32_768,                         # paper (the response, to step 8,200)
                   top_p=1.0, top_k=0, min_p=0.0, stop=(), chunk=0, slots=0,     # ours
                   weight_dtype='', cache_dtype=''),                             # ours
      reward=dict(parts=dict(math=1.0, format=1.0), accuracy='math',             # paper (equal weight)
                  workers=2, timeout=5.0, overlong_buffer=0, options=dict(), gates=(), step_credit=0.0),  # ours
      # '' and -1.0 stand for what the loss has of itself (docs/settings.md): grpo divides by the group's deviation,
      # has a KL coefficient of 1e-3 (both the paper's), and clips at 0.2 (ours, as R1-Zero's range is not stated).
      loss=dict(name='grpo', advantage='', average='', clip_low=-1.0, clip_high=-1.0, kl_coef=-1.0, ratio_cap=-1.0,
                kl_estimator='k3', kl_place='loss',                              # paper
                dual_clip=0.0, tis_cap=0.0, mis_low=0.0, mis_high=0.0, mis_level='token', sequence_mask=0.0,
                tv_mask=0.0, entropy_coef=0.0, resample_limit=0, drop_zero_variance=False),  # ours
      critic=dict(path='', learning_rate=1e-5, warmup=0, clip=0.2, gamma=1.0, gae_lambda=0.95),  # ours; for PPO alone
      distill=dict(coef=0.0, objective='reverse_kl', path='', path_by_kind=dict(), preset=''),  # ours; off
      lora=dict(rank=0, alpha=32.0, targets=(), path=''),                        # the paper trains the whole model
      optimizer=dict(name='adam', learning_rate=3e-6,                            # paper
                     schedule='constant', warmup=10, final_fraction=1.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
                     grad_clip=1.0, moment_dtype='float32'),                     # ours
      train=dict(minibatches=16,                                                 # paper
                 microbatch=0, length_slices=1, epochs=1, logit_chunk=1024,      # ours
                 balance_rate=0.0, param_dtype='float32', grad_dtype='float32', reference_dtype='float32',  # ours
                 reference_memory='device', routing_replay=False,                # ours
                 reference_refresh=25),                                          # paper (400 optimizer steps)
      eval=dict(every=10, problems=128, samples=16,                              # paper (16 samples)
                final_problems=256, final_samples=16, temperature=1.0, top_p=1.0),
      checkpoint=dict(every=5, keep=2, keep_every=50),                           # ours
      mesh=MESH, sampler_mesh=SAME_MESH))


def part(**settings):
  """A part of a mixture, with every key, so that each can be set on the command line."""
  return ConfigDict(dict(source='jsonl', path='', eval_path='', eval_fraction=0.05, name='', weight=1.0, start_step=0,
                         kind='', language='', template='', answers=True, problem='', fields=dict(), filter=dict(),
                         eval_filter=dict()) | settings)


def choose(variants, name):
  """The config of a variant; unknown ones are refused with the list."""
  if name not in variants:
    raise ValueError(f"unknown variant '{name}'; known: {', '.join(variants)}.")
  return variants[name]()
