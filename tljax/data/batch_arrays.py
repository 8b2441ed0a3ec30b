"""The classes of tokens, which data gives to every position of a row and sft reports metrics by. Imports nothing."""

# The class of a position says what the position predicts. Only the classes of reply tokens are above 0.
PROMPT_TOKEN, NO_TARGET, OTHER_TOKEN, KEY_TOKEN, NAME_TOKEN = -1, 0, 1, 2, 3
