"""What every command shares: settings from files and flags, log lines, exit codes."""
