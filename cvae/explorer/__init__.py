"""The latent space to look around in: as a page in the browser, and as a page without a server."""
