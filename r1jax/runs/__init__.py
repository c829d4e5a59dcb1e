"""What every command needs beside its own work: flags and errors, the process, its folder, files and settings."""
