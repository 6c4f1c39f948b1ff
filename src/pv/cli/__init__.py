"""The command line: options -> one library call -> report -> exit code. A command is loaded only when it is used."""
