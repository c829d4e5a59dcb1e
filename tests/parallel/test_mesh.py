"""Several devices against one, in a process of its own: the number of devices is fixed when JAX starts."""

import os
import pathlib
import subprocess
import sys

import pytest


def test_two_devices_give_the_tokens_and_the_update_of_one(pytestconfig):
  run(pytestconfig, 2, 'dense')


@pytest.mark.slow
@pytest.mark.parametrize('model', ['dense', 'qwen3_moe', 'deepseek_v3'])
def test_every_mesh_gives_the_tokens_and_the_update_of_one_device(model, pytestconfig):
  run(pytestconfig, 8, model)


def run(pytestconfig, devices, model):
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'PYTHONPATH': str(pytestconfig.rootpath),
    # Threads: a policy and its teachers run side by side, and those that wait for a collective fill a small pool.
    'NPROC': '64',
  }
  script = pathlib.Path(__file__).with_name('on_many_devices.py')
  out = subprocess.run([sys.executable, str(script), model], env=env, capture_output=True, text=True, timeout=1200)
  assert out.returncode == 0, out.stdout + out.stderr[-3000:]
