"""Sample the settings of a search, try them and choose one; shared by `fit-head` and `finetune`."""
