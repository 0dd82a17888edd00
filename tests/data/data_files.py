"""What the tests of the sources share."""

import hashlib
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch

NOWHERE = "http://127.0.0.1:9/"  # nothing listens there; the tests that use it set no_proxy=127.0.0.1


@contextmanager
def serving(folder):
    """The address where the files of `folder` can be fetched."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def below(folder):
    """Every file and folder below, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_is(images, x, y):
    assert images.x.dtype == torch.uint8 and images.y.dtype == torch.int64 and images.factors is None
    np.testing.assert_array_equal(images.x, x)
    np.testing.assert_array_equal(images.y, y)
