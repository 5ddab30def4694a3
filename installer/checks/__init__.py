"""What is asked of a running Dify: the front door, the inner services, the model servers."""
