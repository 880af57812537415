"""Modules that moved before 0.2: the old name still imports the module, and a warning names the new one.

To be taken out with 0.2. ``normwise.torch.param_groups`` is a function; the module of that name is not found any more.
"""

import sys

TYPE_CHECKING = False  # as type checkers read it: `import normwise` is to bring in nothing that takes time
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ELSEWHERE = {
    "normwise.keras.models.passes": "normwise.recalibration.passes",
    "normwise.keras.recalibration_passes": "normwise.recalibration.passes",
    "normwise.recalibration.share": "normwise.recalibration.one_pass",
    "normwise.torch.models.recalibration.passes": "normwise.recalibration.passes",
    "normwise.torch.models.recalibration.prior": "normwise.recalibration.site",
    "normwise.torch.prior": "normwise.recalibration.site",
    "normwise.torch.recalibration_passes": "normwise.recalibration.passes",
}
"""The full old name -> the full new one, of modules that both frameworks share now."""

SUCCESSORS = {
    "torch": {
        "accumulation": "models.accumulation.accumulate",
        "adapt": "models.recalibration.adapt",
        "adapting": "models.recalibration.adapting",
        "batchnorm": "layers.batch_norm",
        "buffers": "steps.buffers",
        "by_sample": "steps.normalize_samples",
        "checks": "steps.checks",
        "conversion_guard": "layers.conversion_guard",
        "dealing": "steps.gather_order",
        "decorrelated": "layers.decorrelated_batch_norm",
        "domain_choice": "layers.domain",
        "domain_conversion": "models.conversion.domains",
        "domains": "layers.per_domain",
        "feeding": "models.feeding",
        "finite": "steps.estimate_finite",
        "fuse": "models.fusion.fuse",
        "fused_batchnorm": "layers.tracked",
        "fusion_patterns": "models.fusion.patterns",
        "fusion_rewriting": "models.fusion.rewriting",
        "fusion_survey": "models.fusion.survey",
        "fusion_tracing": "models.fusion.tracing",
        "ghost": "layers.ghost_batch_norm",
        "groupnorm": "layers.group_norm",
        "instancenorm": "layers.instance_norm",
        "iterative_norm": "layers.iterative_norm",
        "joining": "models.accumulation.joining",
        "kept": "steps.normalize_kept",
        "layernorm": "layers.layer_norm",
        "lazy": "layers.lazy_batch_norm",
        "linear_inference": "steps.normalize_linear",
        "loading": "models.loading",
        "lockstep": "models.accumulation.lockstep",
        "mask_checks": "steps.checks_mask",
        "memory": "steps.memory",
        "offloading": "models.accumulation.offloading",
        "operators": "steps.operators",
        "pairs_of_channels": "steps.estimate_pairs",
        "pooling": "models.pooling",
        "pooling_report": "models.pooling_report",
        "ranks": "models.ranks",
        "recalibrate": "models.recalibration.recalibrate",
        "recalibration_sites": "models.recalibration.sites",
        "recomputation": "steps.estimate_recomputation",
        "renorm": "layers.batch_renorm",
        "renorm_schedule": "layers.renorm_schedule",
        "running_statistics": "steps.estimate",
        "site_statistics": "models.recalibration.site_statistics",
        "state": "layers.state",
        "statistics": "models.paused",
        "sync_conversion": "models.conversion.synchronized",
        "sync_normalize": "steps.normalize_joined",
        "sync_peers": "steps.gather_peers",
        "sync_tiny_batches": "steps.normalize_joined_tiny",
        "synchronized": "layers.sync_batch_norm",
        "tiny_batches": "steps.normalize_tiny",
        "transaction": "models.transaction",
        "virtual_batches": "steps.gather_virtual",
        "whitening": "layers.whitening",
        "whitening_checks": "steps.checks_whitening",
    },
    "keras": {
        "activations": "steps.activate",
        "adapt": "models.adapt",
        "arrays": "steps.arrays",
        "batch_normalization": "layers.batch_normalization",
        "conversion": "models.conversion",
        "domains": "layers.domains",
        "drift": "models.drift",
        "epochs": "callbacks.epochs",
        "feeding": "models.feeding",
        "gathering": "steps.gather",
        "ghost": "layers.ghost",
        "jax_derivatives": "steps.jax_derivatives",
        "jax_kernels": "steps.jax_kernels",
        "kernels": "steps.kernels",
        "loading": "models.loading",
        "masks": "steps.checks_mask",
        "monitoring": "callbacks.monitoring",
        "moving_statistics": "steps.estimate",
        "normalizing": "steps.normalize",
        "recalibrate": "models.recalibrate",
        "recalibrating": "callbacks.recalibrating",
        "recalibration_sites": "models.sites",
        "renormalization": "steps.normalize_renormalized",
        "replicas": "steps.gather_replicas",
        "settings": "layers.settings",
        "tiny_batches": "steps.normalize_tiny",
        "torch_kernels": "steps.torch_kernels",
        "transaction": "models.transaction",
        "virtual_batches": "steps.gather_virtual",
    },
    "lab": {
        "adversarial": "training.adversarial",
        "cluster": "running.cluster",
        "convolutional": "networks.convolutional",
        "curves": "design.curves",
        "forecast": "training.forecast",
        "formats": "data.formats",
        "frechet": "training.frechet",
        "images": "data.images",
        "landscape": "training.landscape",
        "linear": "networks.linear",
        "measuring": "running.measuring",
        "models": "networks.dense",
        "photographs": "data.photographs",
        "plan": "running.plan",
        "progress": "running.progress",
        "reach": "running.reach",
        "recurrent": "networks.recurrent",
        "residual": "networks.residual",
        "rewriting": "networks.rewriting",
        "stack": "networks.stack",
        "stack_training": "training.stacks",
        "stamp": "running.stamp",
        "statistics": "intervals",
        "stock_prices": "data.stock_prices",
        "store": "running.store",
        "valley": "training.valley",
        "variance_shift": "training.variance_shift",
        "variants": "networks.variants",
        "watching": "training.watching",
        "workers": "running.workers",
    },
}
"""The old names by room -> the new ones."""

NAMES = {
    "normwise.lab.data": (
        "splits",
        ("CLASSES", "PIXELS", "Digits", "Split", "batches", "digits", "digits_on_photos", "pixels", "shape", "use"),
    ),
    "normwise.lab.training": ("descent", ("accuracy", "looks", "to_a_tenth", "train")),
    "normwise.lab.running": ("session", ("run",)),
}
"""A package that has the name of a module before it -> where that module is now in it, and the names it had."""


class Finder:
    """Finds a module that moved; the last in ``sys.meta_path``, so that it is asked for nothing that is there."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """The import system's question for a module of this name."""
        _ = path, target
        package, _, old = name.rpartition(".")
        new = (
            SUCCESSORS.get(package.removeprefix("normwise."), {}).get(old) if package.startswith("normwise.") else None
        )
        successor = ELSEWHERE.get(name) if new is None else f"{package}.{new}"
        if successor is None:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, Loader(successor))  # type: ignore[arg-type]  # importlib.abc takes a millisecond to import


class Loader:
    """Gives the successor in the place of a module that moved."""

    def __init__(self, successor: str) -> None:
        self._successor = successor
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: "ModuleSpec") -> "ModuleType":
        """The successor itself."""
        import warnings
        from importlib import import_module

        warnings.warn(
            f"{spec.name} has moved to {self._successor} and has its old name until 0.2: import it from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = import_module(self._successor)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: "ModuleType") -> None:
        """It was executed when it was imported; the import system has given it another name meanwhile."""
        module.__spec__ = self._spec


def names_of(package: str) -> "Callable[[str], object]":
    """The ``__getattr__`` of a package in ``NAMES``: gives the names of the module before it, with a warning."""
    inside, names = NAMES[package]

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import warnings
        from importlib import import_module

        warnings.warn(
            f"{package}.{name} has moved to {package}.{inside} and has its old place until 0.2: import it from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(f"{package}.{inside}"), name)

    return get


def install() -> None:
    """Let the import system ask ``Finder`` too."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
