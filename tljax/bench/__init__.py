"""Measures the time that a user waits, beside that of torch and transformers for the same work.

run.py             configs/bench.py -> the sides in turn -> a table and a report in JSON
sides.py           config.what -> the sides to measure
side.py            a side -> a process of its own -> its result
sft.py             the SFT loop: tokens per second, MFU, memory, the first step
generate.py        prefill and decoding of several batch sizes, against the memory's bandwidth
ppo.py             the seconds of each phase of an update
data.py            trajectories per second of each stage of the data
hf.py              seconds and memory of the import and export of weights
torch_sft.py       the peer of sft.py
trl_sft.py         TRL's SFTTrainer on a row for each reply
torch_generate.py  the peer of generate.py
torch_hf.py        the peer of hf.py
peer_files.py      batches, prompts and the model's folder, from tljax to its peers
peer_model.py      the model as a Hugging Face folder
devices.py         the devices of JAX: name, memory, bandwidth
torch_device.py    the device of torch
machine.py         the host: memory, processors, other load, versions
repeats.py         something repeated -> its seconds and peaks of memory
reply_times.py     config.batches -> sizes; seconds to the first and the last token -> prefill and decoding
measurement.py     values of one quantity -> median and spread
compare.py         two results -> ratios, or why the comparison is void
report.py          everything measured -> the table and the JSON
"""
