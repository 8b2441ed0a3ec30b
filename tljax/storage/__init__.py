"""Files that are written completely or not at all: in local folders, at addresses such as gs://BUCKET/NAME, on the hub.

atomic.py      content -> a file or folder, under a temporary name that is then renamed; JSON and JSON lines
remote.py      an address -> a local copy; local files -> an address
unreachable.py an error -> whether a store does not answer; a second and third try
hub.py         a path, an address or a name on the Hugging Face hub -> a local folder
run_folder.py  RunFolder: a run's local folder, which may be mirrored to an address
token_files.py the special tokens that the files beside a tokenizer.json name
resumable.py   an output file that several runs may have to finish
"""
