"""The formats of training files: a record (one JSON object of a file) comes in, a conversation goes out.

read.py         record -> Trajectory; FORMATS lists the modules below, and the first one that matches a record reads it
tl_training.py  {"id", "conversations"}, as TL-Training releases it
openai.py       {"tools", "messages"}, as OpenAI's chat API writes it
anthropic.py    {"tools", "messages"} with blocks tool_use and tool_result
sharegpt.py     {"tools", "conversations": [{"from", "value"}]}: LLaMA-Factory, APIGen-MT, Hermes, ToolACE
xlam.py         {"query", "tools", "answers"}
pairing.py      tool messages -> the calls that they answer
fields.py       what formats share: roles, tool lists, arguments

A new format is a module with SCHEMA, MESSAGES, `matches(record)` and `read(record, location)`, and a line in FORMATS.
"""
