"""Dialogues in which a model's calls are run: requests -> dialogues -> DE, CE, VA and task success.

dialogues   toolbox tasks, benchmark rows or a user's queries -> DialogueRequests; the check of a task's solution
executors   a call -> its Result: the toolbox, a mock for any tool list, the functions or the class of a user's file
worker      the process in which a user's functions run
loop        prompts, a policy and executors -> Dialogues
scores      Dialogue -> a row as JSON; rows -> DE, CE, VA, success
report      rows -> table, report as JSON, transcripts
files       the files of a run: dialogues as they end, then report and transcript
run         the command: config -> requests -> dialogues -> printed scores and files
"""
