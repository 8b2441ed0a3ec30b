"""The formats of training files: a record (one JSON object of a file) comes in, a conversation goes out.

read.py         record -> Trajectory; FORMATS names the modules below, and the first one that matches a record reads it
nearest.py      a record of no format -> the nearest one, and what differs
api_log.py      an entry of a log, which wraps a request and its response -> the record of the conversation
preferences.py  a row with a chosen reply -> the record of the conversation that ends with it
tl_training.py  {"id", "conversations"}, as TL-Training releases it
openai.py       {"tools", "messages"}, as OpenAI's chat API writes it
responses.py    {"tools", "input", "output"}, as OpenAI's Responses API writes it
anthropic.py    {"tools", "messages"} with blocks tool_use and tool_result
sharegpt.py     {"tools", "conversations": [{"from", "value"}]}: LLaMA-Factory, APIGen-MT, Hermes, ToolACE
toolbench.py    the same with calls as texts "Action: ... Action Input: ...": ToolBench, ToolLLaMA
glaive.py       {"system", "chat"}, a conversation as one text
xlam.py         {"query", "tools", "answers"}
seal_tools.py   {"query", "calling"}, and the texts for fine-tuning of Seal-Tools
pairing.py      tool messages -> the calls that they answer
texts.py        lists and objects inside texts
fields.py       what formats share: roles, tool lists, arguments

A new format is a module with SCHEMA, MESSAGES, SHAPE, `matches(record)` and `read(record, location)`, and a line in
FORMATS.
"""
