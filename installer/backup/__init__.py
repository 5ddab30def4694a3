"""What a Dify holds, as one file: databases, files, vectors, settings; written, proved and read back."""
