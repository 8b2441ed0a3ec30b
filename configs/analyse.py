r"""The three analyses of TL-Training (arXiv 2412.15495) on your own data.

    python launch/analyse.py --config configs/analyse.py --config.source=raw.json [--config.model.path=HF_DIR]

Without a model: which steps failed, by their tools' feedback and by the documentation of the tools. With one also: loss
and rank of golden tokens by what they are for, what becomes of replies whose first wrong token is corrected, and the
kinds of error in the model's calls. Tables on the screen; the report with its plots in a folder, once all is done: one
that is stopped keeps nothing, so give config.limit where a model has many steps to answer.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, mesh_block, toolbox_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.out = ""  # new folder for the report; "" is analyses/NAME, after the source, or the first free NAME-2, ...

    # A model is asked the steps that data.mae keeps, and reads them in data.dialect; data.pkt has the weights that the
    # report names. data.rows, prompt_weight and eval_fraction are for training and change nothing here.
    data = config.data = data_block()
    config.source = data.get_ref("source")  # the same field as data.source, for short
    config.toolbox = toolbox_block()

    config.limit = 0  # steps that the model is asked, a seeded sample of those there are; 0: all. The rest is counted
    config.seed = 0  # of the sample
    config.new_tokens = 256  # longest reply
    config.rows = 16  # replies computed side by side, over all devices
    config.plots = True  # png and pdf, with matplotlib

    model = config.model = ConfigDict()
    model.path = ""  # folder (HF, peft, a run's), hub id, or "base", the small one that ships; "" asks no model
    model.compute_dtype = "float32"  # float32 | bfloat16, which takes half the memory; weights are held in it
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)

    config.mesh = mesh_block()
    return config
