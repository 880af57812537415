"""The checks that say nothing about Keras models, with the reason."""

NOT_IN_KERAS = {
    "disagreeing_ranks": "Keras's replicas share one set of running statistics: there are no two to compare",
}
"""The name of a check -> why it says nothing about a Keras model."""
