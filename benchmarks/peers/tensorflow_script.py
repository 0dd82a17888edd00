"""TensorFlow's tutorial as a whole script: training, the test set and a picture after each epoch, GIF, manifold."""

import glob
import os
import sys
import time

import imageio
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from benchmarks.peers.tensorflow import CVAE, batches, compute_loss, train_step


def generate_and_save_images(model: CVAE, epoch: int, test_sample: tf.Tensor) -> None:
    mean, logvar = model.encode(test_sample)
    predictions = model.sample(model.reparameterize(mean, logvar))
    plt.figure(figsize=(4, 4))
    for i in range(predictions.shape[0]):
        plt.subplot(4, 4, i + 1)
        plt.imshow(predictions[i, :, :, 0], cmap="gray")
        plt.axis("off")
    plt.savefig(f"image_at_epoch_{epoch:04d}.png")
    plt.close()  # the notebook shows it instead


def make_gif() -> None:
    with imageio.get_writer("cvae.gif", mode="I") as writer:
        for filename in sorted(glob.glob("image*.png")):
            image = imageio.v2.imread(filename)
            writer.append_data(image)
        writer.append_data(image)


def plot_latent_images(model: CVAE, n: int, digit_size: int = 28) -> None:
    norm = tfp.distributions.Normal(0, 1)
    grid_x = norm.quantile(np.linspace(0.05, 0.95, n))
    grid_y = norm.quantile(np.linspace(0.05, 0.95, n))
    image = np.zeros((digit_size * n, digit_size * n))
    for i, yi in enumerate(grid_x):
        for j, xi in enumerate(grid_y):
            digit = tf.reshape(model.sample(np.array([[xi, yi]]))[0], (digit_size, digit_size))
            image[i * digit_size : (i + 1) * digit_size, j * digit_size : (j + 1) * digit_size] = digit.numpy()
    plt.figure(figsize=(10, 10))
    plt.imshow(image, cmap="Greys_r")
    plt.axis("Off")
    plt.savefig("latent.png")


def main(train: str, test: str, epochs: str, folder: str) -> None:
    train_dataset, test_dataset = batches(np.load(train), 32), batches(np.load(test), 32)
    os.chdir(folder)
    model, optimizer = CVAE(2), tf.keras.optimizers.Adam(1e-4)
    test_sample = next(iter(test_dataset))[0:16]
    generate_and_save_images(model, 0, test_sample)
    for epoch in range(1, int(epochs) + 1):
        started = time.time()
        for x in train_dataset:
            train_step(model, x, optimizer)
        seconds = time.time() - started
        loss = tf.keras.metrics.Mean()
        for x in test_dataset:
            loss(compute_loss(model, x))
        print(f"Epoch: {epoch}, Test set ELBO: {-loss.result()}, time elapse for current epoch: {seconds}")
        generate_and_save_images(model, epoch, test_sample)
    make_gif()
    plot_latent_images(model, 20)


if __name__ == "__main__":
    main(*sys.argv[1:])
