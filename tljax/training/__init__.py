"""Training: the parts that supervised fine-tuning and PPO share, from opening a model to exporting it.

model_source: a path, hub id or preset -> an opened model -> its weights on the mesh.
tokenizer_source: the name of a model -> the folder of its tokenizer.
fingerprint: an opened model -> a hash that tells its weights from others.
optimizer: config.optim -> learning-rate schedule and AdamW.
state: parameters and optimizer -> TrainState; gradients summed over the parts of a batch.
resume: a run's folder -> the same folder locked for this process, and checked to continue the same run.
stop: signals -> a request to stop, which all processes see after the same update.
checkpoint: TrainState and metadata -> checkpoints in the run's folder, and back onto any mesh.
checkpoint_errors: an error of Orbax, a disk or a store -> its reason, and whether it may pass.
checkpoint_handlers: arrays and metadata -> the files of one checkpoint; errors -> a callback.
metrics: a step's metrics -> metrics.jsonl, TensorBoard, Weights & Biases, and progress lines.
mfu: tokens per second -> model FLOPs utilization.
exported_change: the weights before and after training -> the share of their change that the export keeps.
export_gguf: a run or any model -> a GGUF file.
export: a run's checkpoint -> a Hugging Face folder, or an adapter in the format of `peft`.
"""
