"""Files: written whole or not at all, in local folders, at addresses such as gs://BUCKET/NAME, and on the hub.

atomic.py      files and folders under a temporary name, which is then renamed; JSON and JSON lines
remote.py      an address -> a local copy; local files -> an address
hub.py         a folder's path or its name on the Hugging Face hub -> a local folder
run_folder.py  a run's folder, in one place or mirrored to an address
resumable.py   an output file that several runs may have to finish
"""
