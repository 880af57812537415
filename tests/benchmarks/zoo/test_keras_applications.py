"""keras.applications on PyTorch: one architecture of each family."""

from benchmarks.zoo.architectures import Architecture
from tests.benchmarks.zoo.families import of_each_family, unlike_the_page


@of_each_family("keras-torch")
def test_the_operations_do_what_the_page_of_the_zoo_says(architecture: Architecture) -> None:
    assert unlike_the_page(architecture) == {}
