"""The tools, one file per domain, each with its TOOLS. Their docstrings and messages are part of the generated data.

tables: the facts that the tools look up, and samplers for their arguments.
Domains of the splits train and composition: arithmetic, text, lists, geometry, dates, units, currency, weather,
library, shop, contacts, travel.
Domains of the split domain, with words that occur nowhere else: music, gardening, astronomy.
"""
