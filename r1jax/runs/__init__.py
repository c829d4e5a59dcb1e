"""What all commands share: flags and error messages, process setup, run folders, files and settings."""
