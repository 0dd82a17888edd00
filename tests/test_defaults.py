"""The values of conf/, written down a second time: a default is changed on purpose, here too, or not at all."""

import pytest
from conftest import ROOT, config, get_object
from omegaconf import OmegaConf

CONF = ROOT / "conf"

VALUES = """\
callbacks/default:
  pictures:
    _target_: cvae.training.pictures.Pictures
    run_dir: '${run_dir}'
    num: 16
    every_n_epochs: null
    seed: '${seed}'
    manifold_steps: 20
    max_classes: 10
    plane: pca
    frame_milliseconds: 300
    last_frame_milliseconds: 3000
  epoch_lines: {_target_: cvae.training.progress.EpochLines}
  checkpoint:
    _target_: cvae.training.checkpoints.Checkpoints
    run_dir: '${run_dir}'
    monitor: selection/bound
    every_n_steps: 1000
  progress: {_target_: cvae.training.progress.ProgressBar}
data/cifar10: {source: {_target_: cvae.data.cifar10.CIFAR10, _partial_: true}, image_shape: [3, 32, 32]}
data/fashion_mnist:
  source: {_target_: cvae.data.idx_files.IdxFiles, _partial_: true, dataset: FashionMNIST}
  image_shape: [1, 28, 28]
data/huggingface: {_target_: cvae.data.huggingface.huggingface, root: null, name: null, image: image, label: label,
  test_size: 0.1, split: hash, num_classes: null, image_shape: [3, 32, 32]}
data/image_folder:
  _target_: cvae.data.folder.image_folder
  split: hash
  fit: crop
  transparent: white
  white: null
  pixel_limit: null
  skip_unreadable: false
  cache: auto
  root: null
  image_size: 32
  channels: 3
  test_size: 0.1
  num_classes: null
  image_shape: ['${data.channels}', '${data.image_size}', '${data.image_size}']
data/kmnist:
  source: {_target_: cvae.data.idx_files.IdxFiles, _partial_: true, dataset: KMNIST}
  image_shape: [1, 28, 28]
data/mnist: {source: {_target_: cvae.data.mnist.MNIST, _partial_: true}, image_shape: [1, 28, 28]}
data/npz: {_target_: cvae.data.npz.npz, root: null, test_size: 0.1, split: hash, white: null, first: null,
  num_classes: null, image_shape: null}
data/sprites:
  source:
    _target_: cvae.data.sprites.Sprites
    _partial_: true
    image_shape: '${data.image_shape}'
    shape: 3
    size: 6
    rotation: 40
    x: 32
    y: 32
    train_size: 20000
    test_size: 5000
    seed: 0
  root: null
  num_classes: null
  image_shape: [1, 64, 64]
data/synthetic:
  source:
    _target_: cvae.data.synthetic.Synthetic
    _partial_: true
    image_shape: '${data.image_shape}'
    num_classes: '${data.num_classes}'
    train_size: 512
    test_size: 128
  root: null
  image_shape: [1, 28, 28]
evaluation/default: {samples: 10, images: null, aggregate_images: 1000, memory: 1}
experiment/autoencoder:
  choices: [data=mnist, model=conv, posterior=deterministic, prior=none,
    likelihood=bernoulli, objective=autoencoder, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: static}
  model: {latent_dim: 16}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 10}
experiment/rae:
  choices: [data=mnist, model=conv, posterior=deterministic, prior=none,
    likelihood=bernoulli, objective=rae, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: static}
  model: {latent_dim: 16}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 10}
experiment/wae:
  choices: [data=mnist, model=conv, posterior=deterministic, prior=standard_normal,
    likelihood=bernoulli, objective=wae, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: static}
  model: {latent_dim: 16}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 10}
experiment/beta_vae:
  choices: [data=mnist, model=conv, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: static}
  model: {latent_dim: 10}
  objective: {kl: closed_form, beta: 4}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 10}
experiment/cifar10:
  choices: [data=cifar10, model=resnet, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=mixture_of_logistics, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: none}
  model: {latent_dim: 128, width: 64, depth: 2}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 100}
experiment/iwae:
  choices: [data=mnist, model=mlp, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=iwae, optimizer=adam, scheduler=constant]
  data: {batch_size: 100, binarization: stochastic}
  model: {latent_dim: 50, hidden: [200, 200], activation: tanh}
  optimizer: {lr: 0.001, eps: 0.0001}
  trainer: {max_epochs: 100}
experiment/keras_io:
  choices: [data=mnist, model=conv_keras_io, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 128, binarization: none, train_on: all}
  model: {latent_dim: 2}
  likelihood: {soft: true}
  objective: {kl: closed_form}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 30}
experiment/hierarchical_mlp:
  choices: [data=mnist, model=ladder, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 100, binarization: stochastic}
  model: {latent_dim: 50, groups: [1x1], channels: 100, width: 200, depth: 1}
  objective: {kl: closed_form}
  optimizer: {lr: 0.001, eps: 0.0001}
  trainer: {max_epochs: 100, gradient_clip_val: 200}
experiment/ladder_cifar10:
  choices: [data=cifar10, model=ladder, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=mixture_of_logistics, objective=elbo, optimizer=adamax, scheduler=cosine]
  data: {batch_size: 128, binarization: none}
  model: {latent_dim: 64, groups: [4x3, 8x5, 16x6], channels: 16, width: 128, depth: 1}
  objective: {kl: closed_form}
  optimizer: {lr: 0.002}
  trainer: {max_epochs: 200, gradient_clip_val: 200}
experiment/ladder_mnist:
  choices: [data=mnist, model=ladder, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 128, binarization: stochastic}
  model: {latent_dim: 16, groups: [7x2, 14x2], channels: 4, width: 32, depth: 1}
  objective: {kl: closed_form}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 100, gradient_clip_val: 200}
experiment/mnist_fast:
  choices: [data=mnist, model=conv, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 128, binarization: static}
  optimizer: {lr: 0.003}
  trainer: {max_epochs: 3}
experiment/own_images:
  choices: [model=resnet, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=discretized_logistic, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 64, binarization: none}
  model: {latent_dim: 64, width: 32, depth: 1, halvings: null}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 30}
experiment/resnet_mnist:
  choices: [data=mnist, model=resnet, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 128, binarization: stochastic}
  model: {latent_dim: 32, width: 32, depth: 1}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 100}
experiment/fsq_mnist:
  choices: [data=mnist, model=resnet, posterior=fsq, prior=uniform,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 128, binarization: stochastic}
  model: {latent_dim: 49, width: 32, depth: 1, latent_map: true}
  posterior: {levels: [4, 4, 2]}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 20}
experiment/vq_mnist:
  choices: [data=mnist, model=resnet, posterior=vq, prior=uniform,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=cosine]
  data: {batch_size: 128, binarization: stochastic}
  model: {latent_dim: 49, width: 32, depth: 1, latent_map: true}
  posterior: {codes: 32, width: 8}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 20}
experiment/tf_guide:
  choices: [data=mnist, model=mlp, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=gaussian, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 64, binarization: none}
  model: {latent_dim: 32, hidden: [64], activation: relu}
  likelihood: {scale: 1.0, mean: sigmoid}
  objective: {kl: closed_form, beta: 12.25}
  optimizer: {lr: 0.001, eps: 3.92e-05}
  trainer: {max_epochs: 2}
experiment/tf_tutorial:
  choices: [data=mnist, model=conv, posterior=diagonal_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 32, binarization: static}
  optimizer: {lr: 0.0001}
  trainer: {max_epochs: 10}
experiment/tf_tutorial_512: {base: tf_tutorial, model: {filters: 512}}
experiment/tfp_layers:
  choices: [data=mnist, model=conv_tfp, posterior=full_gaussian, prior=standard_normal,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 256, binarization: stochastic, invert: true}
  model: {latent_dim: 16}
  optimizer: {lr: 0.001}
  trainer: {max_epochs: 15}
experiment/vampprior:
  choices: [data=mnist, model=mlp, posterior=diagonal_gaussian, prior=vamp,
    likelihood=bernoulli, objective=elbo, optimizer=adam, scheduler=constant]
  data: {batch_size: 100, binarization: stochastic}
  model: {latent_dim: 40, hidden: [300, 300], activation: tanh}
  objective: {beta: {_target_: cvae.schedules.Linear, start: 0, end: 1, steps: 6000}}
  optimizer: {lr: 0.001, eps: 1.0e-08}
  trainer: {max_epochs: 100}
likelihood/bernoulli: {_target_: cvae.likelihoods.Bernoulli, soft: false}
likelihood/continuous_bernoulli: {_target_: cvae.likelihoods.ContinuousBernoulli}
likelihood/discretized_logistic: {_target_: cvae.likelihoods.DiscretizedLogistic, scale: global}
likelihood/gaussian: {_target_: cvae.likelihoods.Gaussian, scale: 1.0, mean: linear}
likelihood/mixture_of_logistics: {_target_: cvae.likelihoods.MixtureOfLogistics, components: 10}
logger/csv: {csv: {_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${run_dir}', name: '', version: csv}}
logger/mlflow:
  mlflow: {_target_: cvae.training.loggers.mlflow, run_dir: '${run_dir}', tags: '${tags}', experiment_name: cvae,
    tracking_uri: '${oc.env:MLFLOW_TRACKING_URI,sqlite:///mlflow.db}'}
logger/none: {}
logger/tensorboard: {tensorboard: {_target_: cvae.training.loggers.tensorboard, run_dir: '${run_dir}'}}
logger/wandb:
  wandb: {_target_: cvae.training.loggers.wandb, run_dir: '${run_dir}', tags: '${tags}', project: cvae, offline: false}
model/conv: {_target_: cvae.networks.conv, latent_dim: 2, filters: [32, 64], base_channels: 32}
model/conv_keras_io: {_target_: cvae.networks.conv_keras_io, latent_dim: 2, filters: [32, 64], hidden: 16}
model/conv_tfp: {_target_: cvae.networks.conv_tfp, latent_dim: 16, filters: [32, 64], bottleneck: 64}
model/ladder:
  _target_: cvae.networks.ladder
  latent_dim: 16
  groups: null
  channels: 4
  width: 32
  depth: 1
model/mlp: {_target_: cvae.networks.mlp, latent_dim: 50, hidden: [200, 200], activation: tanh}
model/resnet: {_target_: cvae.networks.resnet, latent_dim: 32, width: 64, depth: 2, halvings: 2, latent_map: false}
objective/autoencoder: {_target_: cvae.objectives.Autoencoder}
objective/beta/cyclical: {_target_: cvae.schedules.Cyclical, start: 0.0, end: 1.0, period: 10000, rise: 0.5}
objective/beta/linear: {_target_: cvae.schedules.Linear, start: 0.0, end: 1.0, steps: 10000}
objective/beta_tcvae:
  defaults: [_self_, {beta: null}]
  _target_: cvae.objectives.BetaTCVAE
  beta: 6
  sampling: weighted
objective/capacity: {_target_: cvae.objectives.Capacity, gamma: 1000, capacity: 25, steps: 10000}
objective/ciwae: {_target_: cvae.objectives.CIWAE, samples: 64, beta: 0.05}
objective/dip_vae: {_target_: cvae.objectives.DIPVAE, variant: 1, off_diagonal: 10, diagonal: 100}
objective/elbo:
  defaults: [_self_, {beta: null}]
  _target_: cvae.objectives.ELBO
  samples: 1
  kl: monte_carlo
  beta: 1
  free_bits: 0
objective/factor_vae: {_target_: cvae.objectives.FactorVAE, latent_dim: '${model.latent_dim}', gamma: 10,
  hidden: 1000, layers: 5}
objective/infovae: {_target_: cvae.objectives.InfoVAE, alpha: 1, lambda_: 1000, kernel: rbf, bandwidth: 1}
objective/iwae: {_target_: cvae.objectives.IWAE, samples: 50, gradient: plain}
objective/miwae: {_target_: cvae.objectives.MIWAE, estimates: 8, samples: 8}
objective/piwae: {_target_: cvae.objectives.PIWAE, estimates: 8, samples: 8}
objective/rae: {_target_: cvae.objectives.RAE, embedding: 0.0001, regularizer: l2, weight: 0.0001}
objective/renyi: {_target_: cvae.objectives.Renyi, samples: 50, alpha: 0.5}
objective/wae: {_target_: cvae.objectives.WAE, lambda_: 1000, kernel: imq, bandwidth: 1}
optimizer/adagrad: {_target_: torch.optim.Adagrad, _partial_: true, lr: 0.01, lr_decay: 0, initial_accumulator_value: 0,
  eps: 1.0e-10, weight_decay: 0, fused: true}
optimizer/adam:
  _target_: torch.optim.Adam
  _partial_: true
  lr: 0.0001
  betas: [0.9, 0.999]
  eps: 1.0e-07
  fused: true
optimizer/adamax: {_target_: torch.optim.Adamax, _partial_: true, lr: 0.002, betas: [0.9, 0.999], eps: 1.0e-08,
  weight_decay: 0}
optimizer/adamw: {_target_: torch.optim.AdamW, _partial_: true, lr: 0.001, betas: [0.9, 0.999], eps: 1.0e-08,
  weight_decay: 0.01, fused: true}
optimizer/nadam: {_target_: torch.optim.NAdam, _partial_: true, lr: 0.002, betas: [0.9, 0.999], eps: 1.0e-08,
  weight_decay: 0, momentum_decay: 0.004}
optimizer/radam: {_target_: torch.optim.RAdam, _partial_: true, lr: 0.001, betas: [0.9, 0.999], eps: 1.0e-08,
  weight_decay: 0}
optimizer/rmsprop: {_target_: torch.optim.RMSprop, _partial_: true, lr: 0.001, alpha: 0.99, eps: 1.0e-08, momentum: 0,
  centered: false, weight_decay: 0}
optimizer/sgd: {_target_: torch.optim.SGD, _partial_: true, lr: 0.0001, momentum: 0.9, nesterov: false, weight_decay: 0,
  fused: true}
posterior/categorical:
  defaults: [_self_, {temperature: null}]
  _target_: cvae.posteriors.Categorical
  classes: 10
  gradient: straight_through
  temperature: 1.0
posterior/fsq: {_target_: cvae.posteriors.FSQ, levels: [8, 6, 5]}
posterior/temperature/linear: {_target_: cvae.schedules.Linear, start: 1.0, end: 0.5, steps: 10000}
posterior/power_spherical: {_target_: cvae.posteriors.PowerSphericalPosterior}
posterior/vq: {_target_: cvae.posteriors.VQ, codes: 128, width: 16, decay: 0.99, commitment: 0.25}
posterior/deterministic: {_target_: cvae.posteriors.Deterministic}
posterior/diagonal_gaussian: {_target_: cvae.posteriors.DiagonalGaussian}
posterior/full_gaussian: {_target_: cvae.posteriors.FullGaussian}
posterior/iaf: {_target_: cvae.posteriors.IAF, transforms: 4, hidden: 128, context: 64}
prior/autoregressive: {_target_: cvae.priors.AutoregressiveCodes, hidden: 128, layers: 2, heads: 4}
prior/uniform: {_target_: cvae.priors.UniformCodes}
prior/flow: {_target_: cvae.priors.FlowPrior, transforms: 3, hidden: 128, bins: 8}
prior/mixture: {_target_: cvae.priors.MixtureOfGaussians, components: 10}
prior/none: {_target_: cvae.priors.NoPrior}
prior/standard_normal: {_target_: cvae.priors.StandardNormal}
prior/uniform_sphere: {_target_: cvae.priors.UniformSpherePrior}
prior/vamp: {_target_: cvae.priors.VampPrior, components: 500, pseudo_mean: 0.05, pseudo_std: 0.01}
scheduler/constant:
  _target_: torch.optim.lr_scheduler.ConstantLR
  _partial_: true
  factor: 1
  interval: epoch
  warmup_steps: 0
scheduler/cosine:
  _target_: torch.optim.lr_scheduler.CosineAnnealingLR
  _partial_: true
  T_max: null
  eta_min: 0
  interval: epoch
  warmup_steps: 0
scheduler/exponential:
  _target_: torch.optim.lr_scheduler.ExponentialLR
  _partial_: true
  gamma: 0.95
  interval: epoch
  warmup_steps: 0
scheduler/one_cycle:
  _target_: torch.optim.lr_scheduler.OneCycleLR
  _partial_: true
  max_lr: '${optimizer.lr}'
  total_steps: null
  pct_start: 0.3
  div_factor: 25
  final_div_factor: 10000.0
  cycle_momentum: false
  interval: step
  warmup_steps: 0
scheduler/step:
  _target_: torch.optim.lr_scheduler.StepLR
  _partial_: true
  step_size: 30
  gamma: 0.1
  interval: epoch
  warmup_steps: 0
trainer/auto:
  _target_: pytorch_lightning.Trainer
  accelerator: auto
  devices: 1
  strategy: auto
  max_epochs: 10
  max_steps: -1
  max_time: null
  log_every_n_steps: 50
  gradient_clip_val: null
  compile: false
  cuda_graphs: true
  precision: 32-true
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
  plugins: [{_target_: cvae.training.checkpoints.WholeCheckpoints}]
  use_distributed_sampler: false
trainer/cpu: {defaults: [auto], accelerator: cpu}
trainer/ddp: {defaults: [auto], accelerator: gpu, devices: auto, num_nodes: 1, strategy: ddp}
trainer/gpu: {defaults: [auto], accelerator: gpu}
trainer/mps: {defaults: [auto], accelerator: mps}
"""

WRITTEN = OmegaConf.to_container(OmegaConf.create(VALUES))
FILES = {
    path.relative_to(CONF).with_suffix("").as_posix(): path
    for path in CONF.rglob("*.yaml")
    if not {"hydra", "search"} & set(path.parts) and path.name != "config.yaml"
}


def values(name):
    """The keys of a file of conf/; of an experiment its choices, its base and its values."""
    found = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    if not name.startswith("experiment"):
        return found
    choices = [pair for entry in found["defaults"] if isinstance(entry, dict) for pair in entry.items()]
    assert all(key.startswith("override /") for key, _ in choices)
    base = [entry for entry in found["defaults"] if isinstance(entry, str) and entry != "_self_"]
    named = {"choices": [f"{key.removeprefix('override /')}={value}" for key, value in choices]} if choices else {}
    return named | ({"base": base[0]} if base else {}) | found["experiment"]


def test_every_file_is_written_down():
    assert set(WRITTEN) == set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_values(name):
    assert values(name) == WRITTEN[name]


def test_the_choices_and_values_of_the_root():
    found = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert found["defaults"] == [
        "_self_", {"data": "mnist"}, {"model": "conv"}, {"posterior": "diagonal_gaussian"},
        {"prior": "standard_normal"}, {"likelihood": "bernoulli"}, {"objective": "elbo"}, {"optimizer": "adam"},
        {"scheduler": "constant"}, {"trainer": "auto"}, {"evaluation": "default"}, {"callbacks": "default"},
        {"logger": "tensorboard"}, {"experiment": "tf_tutorial"}, {"search": None},
        {"override hydra/job_logging": "cvae"},
        {"override hydra/hydra_logging": "cvae"},
        {"override hydra/help": "cvae"},
    ]  # fmt: skip
    assert found["data"] == {
        "_target_": "cvae.data.ImageData", "root": "${oc.env:CVAE_DATA,data}", "num_classes": 10,
        "binarization": "static", "invert": False, "train_on": "train", "batch_size": 32,
        "eval_batch_size": 500, "validation_size": 0, "augment": None, "fingerprint": None, "seed": "${seed}",
    }  # fmt: skip
    assert (found["seed"], found["conditional"], found["name"], found["tags"]) == (0, False, None, [])


def test_what_refers_to_another_key_follows_it(monkeypatch):
    monkeypatch.setenv("CVAE_DATA", "/elsewhere")
    cfg = config("seed=7", "scheduler=one_cycle", "optimizer.lr=5", "run_dir=here", "logger=[csv,tensorboard]")
    assert cfg.data.seed == cfg.callbacks.pictures.seed == 7 and cfg.scheduler.max_lr == 5
    assert cfg.callbacks.pictures.run_dir == cfg.callbacks.checkpoint.run_dir == "here"
    assert cfg.logger.csv.save_dir == cfg.logger.tensorboard.run_dir == "here" and cfg.data.root == "/elsewhere"
    monkeypatch.delenv("CVAE_DATA")
    assert config().data.root == "data"
    cfg = config("data=synthetic", "data.num_classes=4", "data.image_shape=[3,8,12]")
    assert cfg.data.source.num_classes == 4 and cfg.data.source.image_shape == [3, 8, 12]
    assert config("data=image_folder", "data.channels=1", "data.image_size=16").data.image_shape == [1, 16, 16]


def targets(node):
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from targets(child)


@pytest.mark.parametrize("target", sorted({target for name in FILES for target in targets(WRITTEN.get(name, {}))}))
def test_every_target_is_there(target):
    assert callable(get_object(target))
