"""Dify's compose project in the install folder, and its containers: laid down, started, stopped, looked at."""
