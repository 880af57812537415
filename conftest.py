"""What pytest collects where: a process has one of Keras's backends, so those tests run in a process for each.

``tests/test_keras.py`` starts the three. To run some of them on one backend, name it in the environment:
``KERAS_BACKEND=jax pytest tests/keras``.
"""

import os

FOR_KERAS = ["src/normwise/keras", "src/normwise/lab/comparison/keras_*", "tests/keras"]
collect_ignore_glob = [] if "KERAS_BACKEND" in os.environ else FOR_KERAS
