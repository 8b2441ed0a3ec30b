r"""The config of the three analyses of TL-Training (arXiv 2412.15495) on your own data.

    python launch/analyse.py --config configs/analyse.py --config.source=raw.json [--config.model.path=HF_DIR]

The first analysis needs no model: it counts the steps that failed, by their tools' feedback and by the documentation of
the tools. With a model, the second gives loss and rank of golden tokens by their role, and the third corrects the first
wrong token of replies and counts the kinds of error in the model's calls. Tables are printed, and the report with its
plots is written to a folder at the end. An analysis that is stopped keeps nothing, so set config.limit if a model has
many steps to answer.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, mesh_block, toolbox_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.out = ""  # a new folder for the report; "" means analyses/SOURCE, or the first free SOURCE-2, ...

    # A model answers the steps that data.mae keeps, written in data.dialect; the report shows the weights of data.pkt.
    # data.rows, prompt_weight, new_names and eval_fraction belong to training and change nothing here.
    data = config.data = data_block()
    config.source = data.get_ref("source")  # a short name of the field data.source
    config.toolbox = toolbox_block()

    config.limit = 0  # the size of a random sample of the steps, which the model answers; 0 takes all steps
    config.seed = 0  # decides the sample
    config.new_tokens = 256  # the maximum number of tokens of a reply
    config.rows = 16  # the number of replies that are computed at a time, over all devices
    config.plots = True  # writes plots as png and pdf; needs matplotlib

    model = config.model = ConfigDict()
    model.path = (
        ""  # a folder (HF, peft, a run's), a GGUF file, a hub id, "smollm2", or "base", which ships; "" uses no model
    )
    model.compute_dtype = "float32"  # float32 | bfloat16, also of the weights; bfloat16 takes half the memory
    model.attention = "auto"  # auto | reference | blocked | splash (TPU) | cudnn (GPU)

    config.mesh = mesh_block()
    return config
