"""Command lines typed wrong: one sentence on standard error, exit code 2, and nothing begun."""

from __future__ import annotations

import shlex

import pytest
from click.testing import CliRunner

from normwise.cli import main
from normwise.lab import names

EXPERIMENTS = len(names())
KNOWN = "Known: adapt, doctor, explain, fold, info, lab, recalibrate, swap, tune."
OF_RECALIBRATE = "`normwise recalibrate --help` shows all 14."
OF_ADAPT = "`normwise adapt --help` shows all 13."
OF_RUN = "`normwise lab run --help` shows all 14."
OF_INFO = "Known: --channels-last, --dtype, --help, --inference, --json, --mask, --why."
OF_COMPARE = (
    "Known: --batch-sizes, --budget, --data, --help, --json, --margin, --normalizers, --out, --rates, --seeds, --where."
)
SHAPE = "SHAPE must be written NxC or NxCxHxW, received {!r}: give for example 32x64x56x56."
NEEDS = (
    "`normwise recalibrate` needs {}, which is missing; for example: normwise recalibrate nets.py:net --data data.npz "
    "--out new.pt"
)
COMPARE_NEEDS = (
    "`normwise lab compare` needs {}, which is missing; for example: normwise lab compare nets.py:net --data data.npz "
    "--budget 30m"
)
MODEL = (
    "MODEL is written FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION or as a .keras file, received {!r}: write "
    "FILE.py:FUNCTION, for example nets.py:make_model."
)
DATA = (
    "DATA is written FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION or as an .npz file, received {!r}: write "
    "FILE.py:FUNCTION, for example nets.py:make_batches."
)
BUILDER = (
    "MODEL is written FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, received {!r}: write FILE.py:FUNCTION, for example "
    "nets.py:make_model."
)
TOLERANCE = (
    "--tolerance must be a standard error of 0 or more, in standard deviations, for example 0.01, received {!r}."
)
TIME = "--budget must be a time above 0, written as 90s, 30m or 2h, received {!r}."
WEIGHTS = "the name of a file of weights must end in .safetensors, .pt or .pth, received {!r}: give such a name."
SCALE = "--scale must be a number other than 0, for example 1/255, received {!r}."
READ = (
    "the name of a file of weights must end in .safetensors, .pt, .pth, .ckpt, .bin or .tar, received {!r}: give such "
    "a "
    "name."
)
DASK = "--dask must be the address of a Dask scheduler, for example tcp://10.0.0.1:8786, received {!r}."
RECALIBRATE = "recalibrate nets.py:net --data rows.npz --out new.pt"
ADAPT = "adapt nets.py:net --data rows.npz --out new.pt"
COMPARE = "lab compare nets.py:net --data rows.npz"
SWAP = "swap nets.py:net --out new.pt"
FOLD = "fold nets.py:net --out new.pt"
SWAP_NEEDS = (
    "`normwise swap` needs {}, which is missing; for example: normwise swap nets.py:net --to group --data data.npz "
    "--out group.pt"
)
FOLD_NEEDS = (
    "`normwise fold` needs {}, which is missing; for example: normwise fold nets.py:net --weights net.pt --out "
    "folded.safetensors"
)

WRONG: list[tuple[str, str]] = [
    # commands, options and arguments that there are not
    ("inf", f"unknown command 'inf': did you mean 'info'? {KNOWN}"),
    (
        "recalibarte",
        f"unknown command 'recalibarte': did you mean 'recalibrate'? {KNOWN}",
    ),
    ("train", f"unknown command 'train'; {KNOWN.lower()}"),
    ("lab rum", "unknown command 'rum': did you mean 'run'? Known: compare, list, run."),
    ("--versoin", "unknown option '--versoin': did you mean '--version'? Known: --help, --version."),
    ("-v", "unknown option '-v'; known: --help, --version."),
    ("lab --jsn", "unknown option '--jsn'; known: --help."),
    ("info --jsn", f"unknown option '--jsn': did you mean '--json'? {OF_INFO}"),
    ("info --json=1", "--json takes no value: leave out the = sign and what follows."),
    ("info --why", "--why needs a value, which is missing: write the value after --why."),
    ("info more", "`normwise info` does not take 'more': leave out 'more'."),
    ("info 32x64 --json twice", "`normwise info` does not take '32x64' and 'twice': leave out '32x64' and 'twice'."),
    ("lab list more", "`normwise lab list` does not take 'more': leave out 'more'."),
    ("lab list --jason", "unknown option '--jason': did you mean '--json'? Known: --help, --json."),
    ("lab run --seed 3", f"unknown option '--seed': did you mean '--seeds', '--keep' or '--first-seed'? {OF_RUN}"),
    ("lab run --seeds", "--seeds needs a value, which is missing: write the value after --seeds."),
    (f"{COMPARE} --bugdet 5m", f"unknown option '--bugdet': did you mean '--budget'? {OF_COMPARE}"),
    (f"{RECALIBRATE} --tolernace 1", f"unknown option '--tolernace': did you mean '--tolerance'? {OF_RECALIBRATE}"),
    (f"{ADAPT} --estimator ema", f"unknown option '--estimator'; {OF_ADAPT.lower()}"),
    ("recalibrate", NEEDS.format("MODEL")),
    ("recalibrate nets.py:net", NEEDS.format("--data")),
    ("recalibrate nets.py:net --data rows.npz", NEEDS.format("--out")),
    ("recalibrate nets.py:net --data", "--data needs a value, which is missing: write the value after --data."),
    (f"{RECALIBRATE} more.npz", "`normwise recalibrate` does not take 'more.npz': leave out 'more.npz'."),
    ("lab compare", COMPARE_NEEDS.format("MODEL")),
    ("lab compare nets.py:net", COMPARE_NEEDS.format("--data")),
    # info
    ("info --why 32", SHAPE.format("32")),
    ("info --why 32x", SHAPE.format("32x")),
    ("info --why 32xax3", SHAPE.format("32xax3")),
    ("info --why 32,64", SHAPE.format("32,64")),
    ("info --why 0x3", SHAPE.format("0x3")),
    ("info --why -4x3", SHAPE.format("-4x3")),
    ("info --why ²x3", SHAPE.format("²x3")),
    ("info --why ''", SHAPE.format("")),
    ("info --why 4x3 --dtype flaot32", "unknown dtype 'flaot32': did you mean 'float32'? Known: bfloat16, float16, "
                                       "float32, float64."),
    ("info --why 4x3 --dtype int8", "unknown dtype 'int8'; known: bfloat16, float16, float32, float64."),
    ("info --dtype float16", "--dtype describes the tensor of --why, which is missing: give --why SHAPE too, or leave "
                             "out --dtype."),
    ("info --dtype float32 --json", "--dtype describes the tensor of --why, which is missing: give --why SHAPE too, or "
                                    "leave out --dtype."),
    ("info --channels-last", "--channels-last describes the tensor of --why, which is missing: give --why SHAPE too, "
                             "or leave out --channels-last."),
    ("info --inference", "--inference describes the tensor of --why, which is missing: give --why SHAPE too, or leave "
                         "out --inference."),
    ("info --mask", "--mask describes the tensor of --why, which is missing: give --why SHAPE too, or leave out "
                    "--mask."),
    # lab run
    ("lab run typo", f"unknown experiment 'typo'; `normwise lab list` shows all {EXPERIMENTS}."),
    ("lab run does_it_need_large_batch", "unknown experiment 'does_it_need_large_batch': did you mean "
     "'does_it_need_large_batches' or 'does_the_batch_leak'? `normwise lab "
     f"list` shows all {EXPERIMENTS}."),
    ("lab run does_it_train_faster typo", f"unknown experiment 'typo'; `normwise lab list` shows all {EXPERIMENTS}."),
    ("lab run vanishing", "unknown experiment 'vanishing': did you mean 'does_it_cure_vanishing_gradients'? `normwise "
     f"lab list` shows all {EXPERIMENTS}."),
    ("lab run 'Vanishing gradients'", "unknown experiment 'Vanishing gradients': did you mean "
     f"'does_it_cure_vanishing_gradients'? `normwise lab list` shows all {EXPERIMENTS}."),
    ("lab run ''", f"unknown experiment ''; `normwise lab list` shows all {EXPERIMENTS}."),
    ("lab run --seeds 1", "--seeds must be a whole number of 2 or more, received '1'."),
    ("lab run --seeds -1", "--seeds must be a whole number of 2 or more, received '-1'."),
    ("lab run --seeds many", "--seeds must be a whole number of 2 or more, received 'many'."),
    ("lab run --seeds 2.5", "--seeds must be a whole number of 2 or more, received '2.5'."),
    ("lab run --seeds ''", "--seeds must be a whole number of 2 or more, received ''."),
    ("lab run --first-seed -1", "--first-seed must be a whole number of 0 or more, received '-1'."),
    ("lab run --workers 0", "--workers must be a whole number of 1 or more, received '0'."),
    ("lab run --workers -3", "--workers must be a whole number of 1 or more, received '-3'."),
    (
        "lab run --quick --setting grid",
        "--setting changes one thing of an ordinary run, so it does not go with --quick or --full: leave out one of "
        "them.",
    ),
    ("lab run --setting griid", "unknown setting 'griid': did you mean 'grid'? Known: grid, looks, width."),
    ("lab run --quick --full", "--quick and --full do not go together: leave out one of them."),
    ("lab run --dask nonsense", DASK.format("nonsense")),
    ("lab run --dask ''", DASK.format("")),
    ("lab run --dask ftp://10.0.0.1:80", DASK.format("ftp://10.0.0.1:80")),
    ("lab run --dask tcp://10.0.0.1:99999", DASK.format("tcp://10.0.0.1:99999")),
    ("lab run --dask tcp://10.0.0.1:8786 --workers 2", "--workers is for processes on this machine, and --dask for "
                                                       "those of a scheduler: leave out one of them."),
    ("lab run --device cuda --workers 2", "on the device of --device, trials run in one process: leave out --workers "
                                          "and --dask."),
    ("lab run --device cuda --dask tcp://10.0.0.1:8786", "on the device of --device, trials run in one process: leave "
                                                         "out --workers and --dask."),
    ("lab run --device cudaa", "--device must be a PyTorch device, received 'cudaa': give for example cpu or "
                               "cuda."),
    ("lab run --device ''", "--device must be a PyTorch device, received '': give for example cpu or cuda."),
    ("lab run --data svhn", "no package brings the images of svhn: name the folder with its files by --data-dir."),
    ("lab run --data-dir .", "--data-dir is the folder of --data, which is missing: say which data set the folder "
                             "holds, for "
     "example --data mnist."),
    ("lab run --data mnits --data-dir .", "unknown data set 'mnits': did you mean 'mnist'? Known: cifar10, mnist, "
                                          "svhn."),
    ("lab run --out ''", "--out must be the path of a folder, received ''."),
    ("lab run --keep ''", "--keep must be the path of a folder, received ''."),
    # lab compare
    ("lab compare nets.py --data rows.npz", BUILDER.format("nets.py")),
    ("lab compare net.keras --data rows.npz", BUILDER.format("net.keras")),
    ("lab compare nets.py:net --data .", DATA.format(".")),
    (f"{COMPARE} --budget 5", TIME.format("5")),
    (f"{COMPARE} --budget ''", TIME.format("")),
    (f"{COMPARE} --budget -5m", TIME.format("-5m")),
    (f"{COMPARE} --budget 0s", TIME.format("0s")),
    (f"{COMPARE} --budget 5d", TIME.format("5d")),
    (f"{COMPARE} --budget '5 m'", TIME.format("5 m")),
    (f"{COMPARE} --rates fast", "--rates must be numbers with commas between them, received 'fast'."),
    (f"{COMPARE} --rates 0.1,,", "--rates must be numbers with commas between them, received '0.1,,'."),
    (f"{COMPARE} --rates nan", "a learning rate must be above 0 and finite, received nan: pass for example 0.1."),
    (f"{COMPARE} --rates 0", "a learning rate must be above 0 and finite, received 0: pass for example 0.1."),
    (f"{COMPARE} --batch-sizes 1", "a batch must have 2 rows or more, received 1: pass for example 32."),
    (f"{COMPARE} --seeds 1", "--seeds must be a whole number of 5 or more, received '1'."),
    (f"{COMPARE} --seeds -1", "--seeds must be a whole number of 5 or more, received '-1'."),
    (f"{COMPARE} --seeds many", "--seeds must be a whole number of 5 or more, received 'many'."),
    *((f"{COMPARE} --margin {margin}", f"--margin must be a number of points above 0, for example 1, received "
       f"'{margin}'.") for margin in ("0", "-1", "nan", "inf", "small")),
    (f"{COMPARE} --batch-sizes 32.5", "--batch-sizes must be whole numbers with commas between them, received '32.5'."),
    (f"{COMPARE} --normalizers batch", "the normalizers must be 'batch' and at least one other to compare it with, "
     "received batch: name for example batch,group."),
    (f"{COMPARE} --normalizers btach,none", "unknown normalizer 'btach': did you mean 'batch'? Known: batch, ghost, "
                                            "group, instance, layer, none, renorm."),
    # places of models and data
    ("recalibrate '' --data rows.npz --out new.pt", MODEL.format("")),
    ("recalibrate . --data rows.npz --out new.pt", MODEL.format(".")),
    ("recalibrate nets.py --data rows.npz --out new.pt", MODEL.format("nets.py")),
    ("recalibrate nets.py: --data rows.npz --out new.pt", MODEL.format("nets.py:")),
    ("recalibrate :net --data rows.npz --out new.pt", MODEL.format(":net")),
    ("recalibrate .:net --data rows.npz --out new.pt", MODEL.format(".:net")),
    ("recalibrate .py:net --data rows.npz --out new.pt", MODEL.format(".py:net")),
    ("recalibrate my-nets:net --data rows.npz --out new.pt", MODEL.format("my-nets:net")),
    ("recalibrate 'nets.py:net()' --data rows.npz --out new.pt", MODEL.partition(": write")[0].format("nets.py:net()")
     + ": leave out the parentheses."),
    ("recalibrate old.pt --data rows.npz --out new.pt", MODEL.partition(": write")[0].format("old.pt") + ": that is a "
     "file of weights; write FILE.py:FUNCTION for the model, and give the file with --weights."),
    ("adapt old.h5 --data rows.npz --out new.pt", MODEL.partition(": write")[0].format("old.h5") + ": save the model "
                                                                                                  "as a .keras file."),
    ("recalibrate nets.py:net --data . --out new.pt", DATA.format(".")),
    ("recalibrate nets.py:net --data .:net --out new.pt", DATA.format(".:net")),
    ("recalibrate nets.py:net --data rows.csv --out new.pt", DATA.format("rows.csv")),
    ("recalibrate nets.py:net --data .npz --out new.pt", DATA.format(".npz")),
    ("recalibrate nets.py:net --data rows.npy --out new.pt", DATA.partition(": write")[0].format("rows.npy")
     + ": save the array with numpy.savez."),
    # settings of recalibrate and adapt
    (f"{RECALIBRATE} --estimator poled", "unknown estimator 'poled': did you mean 'pooled'? Known: "
                                         "cumulative, debiased_ema, ema, pooled."),
    (f"{RECALIBRATE} --estimator window", "estimator 'window' needs settings (start, stop) that the command line "
     "does not have: choose another estimator, or call normwise.recalibrate in Python."),
    (f"{RECALIBRATE} --estimator ema --tolerance 0.1", "tolerance needs an estimator that knows more with every batch, "
     "received 'ema': use 'pooled' or 'cumulative', or leave it out."),
    (f"{RECALIBRATE} --upstream bach", "unknown upstream 'bach': did you mean 'batch'? Known: batch, inference."),
    (f"{ADAPT} --upstream ''", "unknown upstream ''; known: batch, inference."),
    (f"{RECALIBRATE} --batches 0", "--batches must be a whole number of 1 or more, received '0'."),
    (f"{RECALIBRATE} --batches -1", "--batches must be a whole number of 1 or more, received '-1'."),
    (f"{ADAPT} --batches two", "--batches must be a whole number of 1 or more, received 'two'."),
    (f"{RECALIBRATE} --batch-size 0", "--batch-size must be a whole number of 1 or more, received '0'."),
    ("adapt nets.py:net --data nets.py:data --out new.pt --batch-size 3", "--batch-size is for an .npz file, and "
                                                                          "nets.py:data makes its own batches: leave "
                                                                          "out --batch-size."),
    (f"{RECALIBRATE} --tolerance -1", TOLERANCE.format("-1")),
    (f"{RECALIBRATE} --tolerance nan", TOLERANCE.format("nan")),
    (f"{RECALIBRATE} --tolerance inf", TOLERANCE.format("inf")),
    (f"{RECALIBRATE} --tolerance small", TOLERANCE.format("small")),
    (f"{ADAPT} --prior -1", "--prior must be a number of samples, 0 or more, received '-1'."),
    (f"{ADAPT} --prior nan", "--prior must be a number of samples, 0 or more, received 'nan'."),
    (f"{ADAPT} --prior many", "--prior must be a number of samples, 0 or more, received 'many'."),
    ("recalibrate nets.py:net --data rows.npz --out new.txt", WEIGHTS.format("new.txt")),
    ("recalibrate nets.py:net --data rows.npz --out new", WEIGHTS.format("new")),
    ("recalibrate nets.py:net --data rows.npz --out rows.npz", WEIGHTS.format("rows.npz")),
    ("recalibrate nets.py:net --data rows.npz --out ''", "--out must be the path of a file, received ''."),
    (f"{RECALIBRATE} --weights rows.npz", READ.format("rows.npz")),
    (f"{RECALIBRATE} --weights old.pt:", READ.format("old.pt:")),
    (f"{RECALIBRATE} --weights rows.npz:ema", READ.format("rows.npz:ema")),
    (f"{ADAPT} --weights folder", READ.format("folder")),
    (f"{RECALIBRATE} --scale 0", SCALE.format("0")),
    (f"{RECALIBRATE} --scale 1/0", SCALE.format("1/0")),
    (f"{ADAPT} --scale nan", SCALE.format("nan")),
    (f"{ADAPT} --scale 1/x", SCALE.format("1/x")),
    ("recalibrate nets.py:net --data nets.py:batches --out new.pt --scale 1/255",
     "--scale is for an .npz file, and nets.py:batches makes its own batches: leave out --scale."),
    ("recalibrate net.keras --data nets.py:batches --out new.keras --scale 1/255",
     "--scale is for an .npz file, and nets.py:batches makes its own batches: leave out --scale."),
    ("recalibrate net.keras --data rows.npz --out new.pt", "the name of a file of a Keras model must end in .keras, "
     "received 'new.pt': give such a name."),
    ("doctor nets.py:net --data rows.npz --classes nets.py", "--classes is for .keras files, received 'nets.py' with "
        "nets.py:net: leave out --classes."),
    ("fold net.keras --out new.keras --classes no-module", "--classes must be a Python file or a module, for example "
        "nets.py, received 'no-module'."),
    ("recalibrate net.keras --data rows.npz --out new.keras --weights a.pt", "--weights is for PyTorch models, "
     "received 'a.pt' with net.keras: leave out --weights."),
    ("adapt net.keras --data rows.npz --out new.keras --device cpu", "--device is for PyTorch models, received 'cpu' "
     "with net.keras: leave out --device."),
    # swap and fold
    ("swap", SWAP_NEEDS.format("MODEL")),
    ("swap nets.py:net --to group", SWAP_NEEDS.format("--out")),
    (SWAP, SWAP_NEEDS.format("--to")),
    ("fold", FOLD_NEEDS.format("MODEL")),
    ("fold nets.py:net", FOLD_NEEDS.format("--out")),
    (f"{SWAP} --to gruop", "unknown target of swap 'gruop': did you mean 'group'? Known: domains, ghost, group, "
                           "instance, keras, layer, normwise, renorm, sync, torch."),
    (f"{SWAP} --to keras", "--to keras is not for PyTorch models, received nets.py:net: give --to torch instead."),
    ("swap net.keras --out new.keras --to torch", "--to torch is not for Keras models, received net.keras: give --to "
     "keras instead."),
    (f"{SWAP} --to layer --num-groups 8", "--num-groups is for --to group, received --to layer: leave out "
                                          "--num-groups."),
    (f"{SWAP} --to group --num-groups 0", "--num-groups must be a whole number of 1 or more, received '0'."),
    (f"{SWAP} --to ghost", "--to ghost needs either --virtual-batch-size or --num-splits: give one of them."),
    (f"{SWAP} --to ghost --num-splits 2 --virtual-batch-size 8", "--to ghost needs either --virtual-batch-size or "
                                                                 "--num-splits: give one of them."),
    (f"{SWAP} --to domains", "--to domains needs the names of the domains: give for example --domains day,night."),
    (f"{SWAP} --to renorm --domain day", "--domain is for --to torch, keras, group, layer, instance or domains, "
                                         "received --to renorm: "
     "leave out --domain."),
    (f"{FOLD} --scale 1/255", "--scale describes --data, which is missing: give --data too, or leave out --scale."),
    (f"{FOLD} --batches 3", "--batches describes --data, which is missing: give --data too, or leave out --batches."),
    (f"{SWAP} --to group --batch-size 3", "--batch-size describes --data, which is missing: give --data too, or leave "
                                          "out --batch-size."),
    ("fold net.keras --out new.keras --batches 2", "--batches describes --data, which is missing: give --data too, or "
                                                   "leave out --batches."),
    ("fold nets.py:net --out new.onnx", WEIGHTS.format("new.onnx")),
    ("fold net.keras --out new.pt", "the name of a file of a Keras model must end in .keras, received 'new.pt': "
     "give such a name."),
    # operations that are no commands
    ("fuse nets.py:net", "'fuse' is not a command: fusing changes no weights, so a command would have nothing to "
                         "write; "
     "call normwise.fuse(model) in the program that trains or serves."),
    ("freeze nets.py:net --out new.pt", "'freeze' is not a command: a file of weights does not say which layers are "
     "frozen; call normwise.freeze(model) in the program that trains."),
    ("unfreeze", "'unfreeze' is not a command: a file of weights does not say which layers are frozen; call "
     "normwise.unfreeze(model) in the program that trains."),
    ("convert net.keras", "'convert' is not a command: use `normwise swap`, with --to normwise, --to torch or --to "
     "keras."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_command_line_is_one_sentence(line: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it names is there: what was typed is judged first."""
    monkeypatch.chdir("/")
    done = CliRunner().invoke(main, shlex.split(line), prog_name="normwise")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"normwise: {sentence}\n")
