"""TensorFlow's tutorial "Convolutional Variational Autoencoder": its model and its training step."""

import sys

import numpy as np
import tensorflow as tf

from benchmarks.turns import Turns


class CVAE(tf.keras.Model):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        layers = tf.keras.layers
        self.latent_dim = latent_dim
        self.encoder = tf.keras.Sequential([
            layers.InputLayer(shape=(28, 28, 1)),
            layers.Conv2D(filters=32, kernel_size=3, strides=(2, 2), activation="relu"),
            layers.Conv2D(filters=64, kernel_size=3, strides=(2, 2), activation="relu"),
            layers.Flatten(),
            layers.Dense(latent_dim + latent_dim),
        ])  # fmt: skip
        self.decoder = tf.keras.Sequential([
            layers.InputLayer(shape=(latent_dim,)),
            layers.Dense(units=7 * 7 * 32, activation=tf.nn.relu),
            layers.Reshape(target_shape=(7, 7, 32)),
            layers.Conv2DTranspose(filters=64, kernel_size=3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(filters=32, kernel_size=3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(filters=1, kernel_size=3, strides=1, padding="same"),
        ])  # fmt: skip

    @tf.function
    def sample(self, eps: tf.Tensor | None = None) -> tf.Tensor:
        return self.decode(tf.random.normal((100, self.latent_dim)) if eps is None else eps, apply_sigmoid=True)

    def encode(self, x: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(self.encoder(x), num_or_size_splits=2, axis=1)

    def reparameterize(self, mean: tf.Tensor, logvar: tf.Tensor) -> tf.Tensor:
        return tf.random.normal(shape=tf.shape(mean)) * tf.exp(logvar * 0.5) + mean

    def decode(self, z: tf.Tensor, apply_sigmoid: bool = False) -> tf.Tensor:
        logits = self.decoder(z)
        return tf.sigmoid(logits) if apply_sigmoid else logits


def log_normal_pdf(sample: tf.Tensor, mean: tf.Tensor, logvar: tf.Tensor) -> tf.Tensor:
    log2pi = tf.math.log(2.0 * np.pi)
    return tf.reduce_sum(-0.5 * ((sample - mean) ** 2.0 * tf.exp(-logvar) + logvar + log2pi), axis=1)


def compute_loss(model: CVAE, x: tf.Tensor) -> tf.Tensor:
    mean, logvar = model.encode(x)
    z = model.reparameterize(mean, logvar)
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(logits=model.decode(z), labels=x)
    logpx_z = -tf.reduce_sum(cross_entropy, axis=[1, 2, 3])
    return -tf.reduce_mean(logpx_z + log_normal_pdf(z, 0.0, 0.0) - log_normal_pdf(z, mean, logvar))


@tf.function
def train_step(model: CVAE, x: tf.Tensor, optimizer: tf.keras.optimizers.Optimizer) -> None:
    with tf.GradientTape() as tape:
        loss = compute_loss(model, x)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def preprocess_images(images: np.ndarray) -> np.ndarray:
    images = images.reshape((images.shape[0], 28, 28, 1)) / 255.0
    return np.where(images > 0.5, 1.0, 0.0).astype("float32")


def batches(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(preprocess_images(images)).shuffle(len(images)).batch(batch_size)


def main(images: str, batch_size: str = "32") -> None:
    dataset = batches(np.load(images), int(batch_size))
    model, optimizer = CVAE(2), tf.keras.optimizers.Adam(1e-4)
    turns = Turns(len(dataset))
    while True:
        turns.wait()
        for x in dataset:
            train_step(model, x, optimizer)
        model.trainable_variables[0].numpy()  # waits for the device


if __name__ == "__main__":
    main(*sys.argv[1:])
