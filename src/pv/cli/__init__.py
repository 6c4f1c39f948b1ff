"""The command line: options -> one library call -> report -> exit code. Every command is loaded only when it is used."""
