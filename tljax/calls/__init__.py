"""Tool calls: their text, their values, and the comparison of two calls, which rewards and scores use.

tool.py                 Tool and Call; a tool from its JSON
references.py           a JSON schema with its definitions in place of its references
flat_parameters.py      parameters without "properties" -> a JSON schema
schema_text.py          a parameter's JSON schema -> its types, facts and nested properties as text
render.py               tools, calls and values -> text, in three dialects
literals.py             an argument's text -> its value, without eval
markup.py               any text -> its reasoning, tags and other marks around calls
arguments.py            a call's text from its parenthesis on -> its arguments
parse_json.py           any text -> the calls in it that are JSON
parse.py                any text -> the calls in it, in every syntax
parse_tools.py          a rendered prompt -> its tools
compare.py              a predicted and a golden call -> the kind of error
normalized_equality.py  two values -> True if they are equal apart from spelling and quotes
"""
