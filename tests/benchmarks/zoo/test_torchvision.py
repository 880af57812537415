"""torchvision: one architecture of each family; of detectors, the backbone."""

from benchmarks.zoo.architectures import Architecture
from tests.benchmarks.zoo.families import of_each_family, see_that_the_page_is_right


@of_each_family("torchvision")
def test_the_operations_do_what_the_page_of_the_zoo_says(architecture: Architecture) -> None:
    see_that_the_page_is_right(architecture)
